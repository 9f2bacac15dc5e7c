"""The catalog's rows: held to timm and torchvision where those tell the same facts, and found by name."""

import io
import re
import urllib.request
from pathlib import Path
from typing import get_args

import pytest
import torch

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import UnknownName, WeightsError
from vitrail.evaluate.parity import convert
from vitrail.models.catalog import MODELS
from vitrail.models.vit import ViT
from vitrail.ops.grid import resample_patch_kernel
from vitrail.weights.catalog import CATALOG, Protocol, Row, find_row
from vitrail.weights.checkpoint import write_model_folder
from vitrail.weights.fetch import locate
from vitrail.weights.load import FORMATS, imagenet_labels, load_weights

WORDS = {"S+/16", "H+/16", "7B/16", "g/14 gated"}  # sizes that models/catalog.py has no row of


@pytest.mark.parametrize("row", CATALOG.values(), ids=lambda row: row.name)
def test_a_row_is_whole(row: Row) -> None:
    assert CATALOG[row.name] is row
    assert row.model in MODELS or row.model in WORDS
    assert row.format in FORMATS
    assert [row.hub, row.url, row.get].count(None) == 2, "it lies in one place"
    assert row.licence and row.source
    assert (row.top1 is None) == (row.protocol is None)
    assert row.top1 is None or (60 < row.top1 < 95 and row.classes == 1000)
    assert row.protocol is None or row.protocol in get_args(Protocol)
    assert (row.labels is None) == (row.classes == 0)
    assert row.hub is None or re.fullmatch(r"[\w-]+/[\w.-]+", row.hub)
    assert row.url is None or (row.url.startswith("https://") and row.url.endswith(".npz"))
    assert "/" not in row.name, "a name is no path and no Hugging Face id"


@pytest.mark.parametrize("row", [r for r in CATALOG.values() if r.format == "timm"], ids=lambda row: row.name)
def test_timm_knows_the_same_of_its_rows(row: Row) -> None:
    import timm

    config = timm.get_pretrained_cfg(row.name)
    assert config.hf_hub_id == row.hub
    assert config.license == row.licence
    assert config.num_classes == row.classes
    assert config.input_size == (3, row.image_size, row.image_size)


@pytest.mark.parametrize(
    "name", sorted({n.partition(".")[0] for n, r in CATALOG.items() if r.format == "timm" and r.model in MODELS})
)
def test_a_row_of_timm_has_the_size_it_says(name: str) -> None:
    import timm

    row = next(row for row in CATALOG.values() if row.name.startswith(f"{name}."))
    with torch.device("meta"):
        theirs = timm.create_model(name)
    ours = MODELS[row.model]
    hidden = theirs.blocks[0].mlp.fc1.out_features
    found = (theirs.embed_dim, len(theirs.blocks), theirs.blocks[0].attn.num_heads, hidden)
    assert found == (ours.width, ours.depth, ours.heads, ours.mlp_dim)
    assert theirs.patch_embed.patch_size == ours.patch_size


@pytest.mark.parametrize("row", [r for r in CATALOG.values() if r.format == "torchvision"], ids=lambda row: row.name)
def test_torchvision_knows_the_same_of_its_rows(row: Row) -> None:
    from torchvision.models import get_weight

    weights = get_weight(row.name)
    assert weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] == row.top1
    assert weights.transforms().crop_size == [row.image_size]
    assert len(weights.meta["categories"]) == row.classes
    assert ("SWAG" in row.name) == (row.licence == "cc-by-nc-4.0") == ("license" in weights.meta)


@pytest.mark.parametrize("row", [r for r in CATALOG.values() if r.format == "open_clip"], ids=lambda row: row.name)
def test_open_clip_knows_the_same_of_its_rows(row: Row) -> None:
    import open_clip
    from open_clip.pretrained import _PRETRAINED

    (name,) = [
        name for name, tags in _PRETRAINED.items() for tag in tags.values() if tag.get("hf_hub") == f"{row.hub}/"
    ]
    table = open_clip.get_model_config(name)
    vision, ours = table["vision_cfg"], MODELS[row.model]
    assert (table["embed_dim"], vision["image_size"], vision["patch_size"]) == (
        row.classes, row.image_size, ours.patch_size[0],
    )  # fmt: skip
    heads = vision["width"] // vision.get("head_width", 64)
    hidden = int(vision["width"] * vision.get("mlp_ratio", 4.0))
    assert (vision["width"], vision["layers"], heads, hidden) == (ours.width, ours.depth, ours.heads, ours.mlp_dim)


def test_a_row_is_found_by_its_name_and_by_its_id() -> None:
    row = find_row("google/vit-base-patch16-224")
    assert row is find_row("vit-base-patch16-224")
    with pytest.raises(
        UnknownName, match=r"unknown weights 'vit-base-patch16-242'; did you mean 'vit-base-patch16-224'"
    ):
        find_row("vit-base-patch16-242")


def test_a_name_means_its_hugging_face_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    (tmp_path / "model.safetensors").write_bytes(b"")
    asked: list[str] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert locate("vit_base_patch16_224.augreg_in21k_ft_in1k") == tmp_path
    assert locate("dinov2-base") == tmp_path
    assert asked == ["timm/vit_base_patch16_224.augreg_in21k_ft_in1k", "facebook/dinov2-base"]


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dinov2-base").mkdir()
    (tmp_path / "dinov2-base" / "model.safetensors").write_bytes(b"")
    assert locate("dinov2-base") == Path("dinov2-base")


def test_an_unknown_name_lists_close_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        WeightsError, match=r"no weights at 'deit_tiny_patch16_244.fb_in1k'; did you mean 'deit_tiny_pa"
    ):
        locate("deit_tiny_patch16_244.fb_in1k")
    with pytest.raises(WeightsError) as caught:
        locate("nonsense.npz")
    accepted = "give a file, a folder, a Hugging Face id or a name of `vitrail models --weights`"
    assert str(caught.value) == f"no weights at 'nonsense.npz'; {accepted}"
    with pytest.raises(WeightsError, match=f"the name of the weights is empty; {accepted}"):
        locate("")
    with pytest.raises(WeightsError, match=r"no copy in the cache; did you mean 'timm/deit_tiny_patch16_224.fb_in1k'"):
        locate("timm/deit_tiny_patch16_244.fb_in1k")


def test_what_is_published_as_a_pickle_says_how_to_fetch_it() -> None:
    with pytest.raises(WeightsError, match=r"is published as a pickle.*get_weight\('ViT_B_16_Weights.IMAGENET1K_V1'\)"):
        locate("ViT_B_16_Weights.IMAGENET1K_V1")


class Answer(io.BytesIO):
    """What urlopen gives."""

    def __init__(self, data: bytes, length: int) -> None:
        super().__init__(data)
        self.headers = {"Content-Length": str(length)}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import huggingface_hub.constants

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "vitrail"


def test_a_file_of_the_catalog_is_downloaded_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def opened(url: str, timeout: float) -> Answer:
        asked.append(url)
        return Answer(b"weights", 7)

    monkeypatch.setattr(urllib.request, "urlopen", opened)
    for _ in range(2):
        assert locate("jax-B16-in21k") == cache / "ViT-B_16.npz"
    assert asked == ["https://storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz"]
    assert (cache / "ViT-B_16.npz").read_bytes() == b"weights"


def test_a_download_that_breaks_off_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Answer(b"weig", 7))
    with pytest.raises(WeightsError, match=r"ViT-B_16.npz can't be downloaded \(it broke off after 4 of 7 bytes\)"):
        locate("jax-B16-in21k")
    assert list(cache.iterdir()) == []


def test_nothing_is_downloaded_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="downloads are off"):
        locate("jax-B16-in21k")


def test_imagenet_s_names_of_other_libraries_get_their_ids() -> None:
    from torchvision.models import get_weight

    from vitrail.types import LabelSet
    from vitrail.weights.load import _with_ids

    theirs = LabelSet(tuple(get_weight("ViT_B_16_Weights.IMAGENET1K_V1").meta["categories"]))
    found = _with_ids(theirs)
    assert found is not None and found.names == theirs.names and found.ids == imagenet_labels().ids
    turned = LabelSet(theirs.names[::-1])
    assert _with_ids(turned) == turned, "another order is another list"


def test_flexivit_s_files_take_the_patch_of_their_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds one kernel and one grid for all patches; the row says which patch its network is run with."""
    config = ViTConfig(
        image_size=224, patch_size=32, width=24, depth=1, heads=3, mlp_dim=48, gelu="tanh", position_prefix=False,
        classes=1000,
    )  # fmt: skip
    torch.manual_seed(0)
    pixels = Preprocess(interpolation="area", odd_margin="down", crop=0.875)
    write_model_folder(tmp_path / "model", ViT(config), pixels, None, {})
    convert(tmp_path / "model", tmp_path / "flexivit_b_i1k.npz", "big_vision", allow_loss=["labels"])
    plain = load_weights(tmp_path / "flexivit_b_i1k.npz")
    assert (plain.model.config.patch_size, plain.preprocess.size) == ((32, 32), (224, 224))
    monkeypatch.setattr("vitrail.weights.load.locate", lambda source: tmp_path / f"{source}.npz")
    loaded = load_weights("flexivit_b_i1k")
    found = loaded.model.config
    assert (found.image_size, found.patch_size, found.position_rule) == ((240, 240), (16, 16), "flexivit")
    assert loaded.licence == "apache-2.0"
    pixels = loaded.preprocess
    assert (pixels.size, pixels.resize, pixels.interpolation, pixels.antialias) == (
        (240, 240), "squash", "bilinear", False,
    )  # fmt: skip
    assert [int(side / pixels.crop) for side in pixels.size] == [272, 272], "resize(272)|central_crop(240)"
    expected = resample_patch_kernel(plain.model.patch_embedding.weight, (16, 16))
    assert torch.equal(loaded.model.patch_embedding.weight, expected)
    assert loaded.model(torch.zeros(1, 3, 240, 240)).shape == (1, 1000)
