"""Loading is strict, and what is wrong is one sentence that names all of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import ConfigError, UnknownName, WeightsError
from vitrail.inference import load
from vitrail.models.build import build
from vitrail.models.catalog import find_model
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder
from vitrail.weights.formats.jax_npz import NPZ, NPZ_LINEN
from vitrail.weights.load import FORMATS, load_weights
from vitrail.weights.rename import read_tensors, write_tensors

CONFIG = ViTConfig(image_size=(16, 16), patch_size=(8, 8), width=24, depth=2, heads=3, mlp_dim=40, classes=3)


def model(**changes: object) -> ViT:
    torch.manual_seed(0)
    made = ViT(ViTConfig(**CONFIG.model_dump() | changes)).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.normal_()
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_folder(tmp_path / "model", model(), Preprocess(size=(16, 16)), LabelSet(("a", "b", "c")), {"seed": 1})
    return tmp_path / "model"


def bare(folder: Path) -> Path:
    """The folder's weights alone, as timm would describe them, so that the file can be edited."""
    (folder / "vitrail.json").unlink()
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    "changes", [{}, {"pool": "gap", "class_token": False}, {"pre_logits": 12}, {"classes": 0}], ids=str
)
@pytest.mark.parametrize("form", [NPZ, NPZ_LINEN], ids=lambda f: f.name)
def test_npz_round_trip_is_bit_identical(tmp_path: Path, form, changes: dict[str, object]) -> None:
    ours = model(gelu="tanh", **changes)
    state = ours.state_dict()
    tensors = write_tensors(state, form.rules(ours.config))
    np.savez(tmp_path / "w.npz", **{key: tensor.numpy() for key, tensor in tensors.items()})
    back = load_weights(tmp_path / "w.npz")
    assert back.model.config == ours.config
    assert all(torch.equal(value, state[key]) for key, value in back.model.state_dict().items())
    assert back.preprocess.resize == "squash"


def test_folder_round_trip_keeps_everything(folder: Path) -> None:
    back = load_weights(folder)
    assert back.model.config == CONFIG
    assert all(torch.equal(v, model().state_dict()[k]) for k, v in back.model.state_dict().items())
    assert (back.preprocess, back.labels) == (Preprocess(size=(16, 16)), LabelSet(("a", "b", "c")))
    assert back.record == {"seed": 1}
    assert load_weights(folder.parent).model.config == CONFIG, "the run folder means its model/"


def test_missing_extra_and_misshaped_keys_are_one_error(folder: Path) -> None:
    file = bare(folder)
    tensors = load_file(file)
    tensors["blocks.0.norm1.wieght"] = tensors.pop("blocks.0.norm1.weight")
    tensors["head.weight"] = torch.zeros(3, 23)
    save_file(tensors, file)
    with pytest.raises(WeightsError) as caught:
        load_weights(folder)
    assert str(caught.value) == (
        "model.safetensors does not hold the weights of this model; missing: blocks.0.norm1.weight; "
        "unknown: blocks.0.norm1.wieght; mis-shaped: head.weight (3, 23) instead of (3, 24)"
    )


def test_the_strict_reader_accepts_the_sound_file(folder: Path) -> None:
    """Negative control of the test above: untouched, the same path loads."""
    bare(folder)
    assert load_weights(folder).model.config == CONFIG.model_copy(update={"position_rule": "timm"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((3,), torch.nan), "holds NaN or infinite numbers in head.bias"),
        (torch.zeros(3, dtype=torch.int64), "not floating point: head.bias torch.int64"),
    ],
)
def test_unusable_numbers_are_refused(folder: Path, value: torch.Tensor, message: str) -> None:
    file = bare(folder)
    save_file(load_file(file) | {"head.bias": value}, file)
    with pytest.raises(WeightsError, match=message):
        load_weights(folder)


def test_an_edited_file_is_noticed_by_its_hash(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors") | {"head.bias": torch.ones(3)}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="damaged or edited"):
        load_weights(folder)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".ckpt"])
def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"model{suffix}").write_bytes(b"not read")
    for source in (tmp_path / f"model{suffix}", tmp_path):
        with pytest.raises(WeightsError, match=r"is a pickle.*convert it once: python -c .*weights_only=True"):
            load_weights(source)


def test_the_advice_for_pickles_works(tmp_path: Path, folder: Path) -> None:
    import re
    import subprocess
    import sys

    torch.save(load_file(folder / "model.safetensors"), tmp_path / "old.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path / "old.pt")
    command = re.search(r'python -c "(.*)"$', str(caught.value))
    assert command is not None
    subprocess.run([sys.executable, "-c", command[1]], cwd=tmp_path, check=True)
    assert load_file(tmp_path / "old.safetensors").keys() == load_file(folder / "model.safetensors").keys()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.npz", b"PK\x03\x04 not a zip"),
        ("w.npz", b""),
        ("w.safetensors", b"\xff" * 64),
        ("w.safetensors", b""),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} is not a sound") as caught:
        load_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "executed",))

    np.savez(tmp_path / "w.npz", cls=np.array([Canary()], dtype=object))
    with pytest.raises(WeightsError, match=r"not a sound \.npz file"):
        load_weights(tmp_path / "w.npz")
    assert not (tmp_path / "executed").exists()


def test_a_file_of_no_known_format_lists_the_formats(tmp_path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"fit no known format; it begins conv1.weight; known: timm \(by .*npz"):
        load_weights(tmp_path / "w.safetensors")


def test_heads_cannot_be_read_from_a_bare_file(folder: Path) -> None:
    file = bare(folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"number of heads is not in the file; its library's config.json beside it"):
        load_weights(file)
    with pytest.raises(WeightsError, match="does not hold a Ti/16: patch_size"):
        load_weights(file, "Ti/16")
    with pytest.raises(UnknownName, match=r"unknown model 'Ti/17'; did you mean 'Ti/16'"):
        load_weights(file, "Ti/17")


def test_a_bare_file_without_heads_names_the_model_that_it_may_be(tmp_path: Path) -> None:
    rules = FORMATS["timm"].rules(find_model("Pico/2"))
    config = find_model("Pico/2")
    file = tmp_path / "w.safetensors"
    save_file(write_tensors(build(config).state_dict(), rules), file)
    with pytest.raises(WeightsError) as caught:
        load_weights(file)
    assert str(caught.value) == "the number of heads is not in the file; say --model Pico/2, whose sizes it has"
    assert load_weights(file, "Pico/2").model.config.heads == config.heads


def test_other_classes_put_a_zero_head_on_and_drop_the_labels(folder: Path) -> None:
    loaded = load_weights(folder, classes=5)
    assert loaded.model.head is not None
    assert loaded.model.head.weight.shape == (5, 24) and not loaded.model.head.weight.any()
    assert loaded.labels is None
    assert torch.equal(loaded.model.blocks[1].mlp.fc1.weight, model().blocks[1].mlp.fc1.weight)


def test_an_impossible_image_size_is_a_sentence(folder: Path) -> None:
    with pytest.raises(ConfigError, match="image_size must be a multiple of patch_size: 20 rows / 8"):
        load_weights(folder, image_size=(20, 16))


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("vit_base_patch16_rpn_224", {}, "'vit_base_patch16_rpn_224' is not one of timm's networks that are read"),
        ("vit_base_patch16_224", {"block_fn": "x"}, r"config\.json has the model_args field 'block_fn'"),
        (
            "vit_base_patch16_224",
            {"act_layer": "relu"},
            "means act_layer='relu'; known: 'gelu', 'gelu_tanh', 'quick_gelu'",
        ),
        ("vit_base_patch16_224", {"act_layer": ["gelu"]}, r"means act_layer=\['gelu'\]"),
        ("vit_base_patch16_224", {"global_pool": "avgmax"}, "means global_pool='avgmax'; known: 'token', 'avg', 'map'"),
        ("vit_base_patch16_224", {"norm_layer": "rmsnorm"}, "means norm_layer='rmsnorm'; known: 'layernorm'"),
        ("vit_base_patch16_224", {"final_norm": False}, "means final_norm=False; only True is read"),
        ("vit_base_patch16_224", {"attn_layer": "diff"}, "means attn_layer='diff'; only 'attn' is read"),
        ("eva02_tiny_patch14_224", {"use_abs_pos_emb": False}, "means rope_type='cat'; only 'dinov3' is read"),
    ],
)
def test_variants_that_shapes_do_not_show_are_refused_by_name(
    folder: Path, architecture: str, options: dict[str, object], message: str
) -> None:
    bare(folder)
    description = json.loads((folder / "config.json").read_text())
    description |= {"architecture": architecture, "model_args": {"num_heads": 3} | options}
    (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(WeightsError, match=message):
        load_weights(folder)


def test_no_such_place_lists_close_matches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"no weights at .*did you mean 'model'"):
        load_weights(folder.parent / "modle" / "")
    empty = folder.parent / "empty"
    empty.mkdir()
    with pytest.raises(
        WeightsError, match=r"holds no model.safetensors, so it is neither a model folder nor a finished run"
    ):
        load_weights(empty)


def test_a_hub_id_without_a_connection_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"'some/model' here, and it can't be downloaded .*HF_HUB_OFFLINE") as caught:
        load_weights("some/model")
    assert "\n" not in str(caught.value)


def test_a_hub_id_is_downloaded_and_read(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    import huggingface_hub

    asked: list[str] = []

    def fake(name: str, allow_patterns: list[str]) -> str:
        asked.extend([name, *allow_patterns])
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    assert load_weights("some/model").model.config == CONFIG
    assert asked[0] == "some/model" and not any(name.endswith((".bin", ".pt", "*")) for name in asked)


def test_a_model_without_a_head_cannot_classify(tmp_path: Path) -> None:
    ours = model(classes=0, gelu="tanh")
    tensors = write_tensors(ours.state_dict(), NPZ.rules(ours.config))
    np.savez(tmp_path / "w.npz", **{key: tensor.numpy() for key, tensor in tensors.items()})
    with pytest.raises(WeightsError, match="has no head"):
        load(tmp_path / "w.npz")


def test_rules_undo_each_other_on_every_tensor() -> None:
    ours = model(pre_logits=12)
    rules = NPZ.rules(ours.config)
    shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    back = read_tensors(write_tensors(ours.state_dict(), rules), rules, shapes, "memory")
    assert back.keys() == shapes.keys()
    assert all(torch.equal(back[key], value) for key, value in ours.state_dict().items())
