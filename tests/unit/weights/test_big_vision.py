"""big_vision's older files, its two towers, and what an optimiser leaves beside the weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.evaluate.parity import convert
from vitrail.models.build import build
from vitrail.weights.load import FORMATS, Loaded, identify, load_weights
from vitrail.weights.rename import write_tensors

FIXTURES = Path(__file__).parents[2] / "golden" / "fixtures"
MAP: dict[str, Any] = {"pool": "map", "class_token": False, "position_prefix": False, "classes": 0}


def config_of(**changes: Any) -> ViTConfig:
    size = {"image_size": (16, 16), "patch_size": (8, 8), "width": 24, "depth": 2, "heads": 3, "mlp_dim": 40}
    return ViTConfig.model_validate({**size, "classes": 3, "gelu": "tanh", **changes})


def arrays(config: ViTConfig, prefix: str = "", form: str = "big_vision") -> dict[str, np.ndarray]:
    """A file of random numbers under the format's own names."""
    torch.manual_seed(0)
    state = {key: torch.randn_like(value) for key, value in build(config).state_dict().items()}
    return {prefix + key: tensor.numpy() for key, tensor in write_tensors(state, FORMATS[form].rules(config)).items()}


def loaded(path: Path, tensors: dict[str, np.ndarray]) -> Loaded:
    np.savez(path, **tensors)
    return load_weights(path)


def logits_of(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return model.double()(torch.randn(2, 3, *model.config.image_size, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("name", ["vit_token", "vit_token_prelogits"])
def test_a_file_of_the_older_code_goes_into_big_vision_and_computes_the_same(name: str, tmp_path: Path) -> None:
    """Its positions have a row for the class token, which big_vision's reader adds to the token: held either way."""
    convert(FIXTURES / f"{name}.weights.npz", tmp_path / "kept.npz", "big_vision", allow_loss=["preprocess"])
    io = np.load(FIXTURES / f"{name}.io.npz")
    images, expected = torch.from_numpy(io["images_nhwc"]).permute(0, 3, 1, 2).double(), torch.from_numpy(io["logits"])
    kept = load_weights(tmp_path / "kept.npz")
    assert kept.form == "big_vision" and kept.model.config.position_prefix
    assert (kept.model.double()(images) - expected).abs().max() < 1e-9
    tensors = dict(np.load(tmp_path / "kept.npz"))
    rows = tensors["pos_embedding"].astype(np.float64)
    tensors["cls"], tensors["pos_embedding"] = tensors["cls"] + rows[:, :1], rows[:, 1:]  # its fix_old_checkpoints
    folded = loaded(tmp_path / "folded.npz", tensors)
    assert not folded.model.config.position_prefix
    assert (folded.model.double()(images) - expected).abs().max() < 1e-5, "the sum is rounded to single precision"


def test_the_class_row_of_an_image_that_is_not_square_follows_from_its_size(tmp_path: Path) -> None:
    """2 x 4 patches and a row are 9 positions, which without the size are 3 x 3."""
    config = config_of(image_size=(16, 32))
    np.savez(tmp_path / "w.npz", **arrays(config))
    for size, prefix, grid in (((16, 32), True, (2, 4)), ((24, 24), False, (3, 3)), (None, False, (3, 3))):
        found = identify(tmp_path / "w.npz", image_size=size).config
        assert isinstance(found, ViTConfig)
        assert (found.position_prefix, found.grid) == (prefix, grid)


def test_older_names_are_read(tmp_path: Path) -> None:
    """Positions within the encoder, and an attention pool that stands alone."""
    tensors = arrays(config_of(**MAP | {"classes": 3}))
    expected = logits_of(loaded(tmp_path / "new.npz", tensors).model)
    names = {"pos_embedding": "Transformer/pos_embedding"}
    old = {names.get(key, key.removeprefix("MAPHead_0/")): value for key, value in tensors.items()}
    assert torch.equal(logits_of(loaded(tmp_path / "old.npz", old).model), expected)


@pytest.mark.parametrize("prefix", ["params/", ""])
def test_a_text_tower_rides_along_and_comes_back_in_its_place(tmp_path: Path, prefix: str) -> None:
    text = {f"{prefix}txt/Embed_0/embedding": np.ones((5, 24), np.float32), f"{prefix}t": np.ones(1, np.float32)}
    source = arrays(config_of(**MAP), f"{prefix}img/") | text
    found = loaded(tmp_path / "two.npz", source)
    assert sorted(found.passengers) == sorted(text)
    assert found.model.config.pool == "map" and not found.model.config.classes
    assert not convert(tmp_path / "two.npz", tmp_path / "back.npz", "big_vision").losses
    back = np.load(tmp_path / "back.npz")
    assert set(back.files) == set(source)
    assert all(np.array_equal(back[key], value) for key, value in source.items())
    with pytest.raises(WeightsError, match=r"timm cannot hold .*passengers \(tensors .*: (params/)?t, "):
        convert(tmp_path / "two.npz", tmp_path / "timm", "timm")


@pytest.mark.parametrize(
    ("form", "prefix", "state"),
    [
        ("big_vision", "params/", "opt/0/mu/head/bias"),
        ("npz", "opt/target/", "opt/state/step"),
        ("npz-linen", "opt/target/", "opt/state/step"),
    ],
)
def test_what_an_optimiser_remembers_rides_along(tmp_path: Path, form: str, prefix: str, state: str) -> None:
    gap = {"pool": "gap", "class_token": False, "position_prefix": False}
    source = arrays(config_of(**gap), prefix, form) | {state: np.array(7)}
    found = loaded(tmp_path / "w.npz", source)
    assert found.form == form and list(found.passengers) == [state]
    convert(tmp_path / "w.npz", tmp_path / "back.npz", form)
    assert set(np.load(tmp_path / "back.npz").files) == set(source)


def test_a_key_of_no_known_part_is_still_an_error(tmp_path: Path) -> None:
    tensors = arrays(config_of(**MAP), "params/img/") | {"params/audio/kernel": np.ones(1, np.float32)}
    with pytest.raises(WeightsError, match="unknown: params/audio/kernel"):
        loaded(tmp_path / "w.npz", tensors)


def test_an_image_tower_is_shown_squashed_images_and_a_classifier_a_crop(tmp_path: Path) -> None:
    tower = loaded(tmp_path / "tower.npz", arrays(config_of(**MAP))).preprocess
    squash = Preprocess(size=(16, 16), resize="squash", crop=1.0, interpolation="bilinear", antialias=False)
    assert tower == squash
    assert loaded(tmp_path / "head.npz", arrays(config_of(**MAP | {"classes": 3}))).preprocess.resize == "shortest"
