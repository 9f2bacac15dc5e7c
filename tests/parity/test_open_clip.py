"""The same numbers as open_clip's image towers, OpenAI's CLIP among them: random-normal weights, float64, 1e-9."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import load_file, save_file

from vitrail.config import Preprocess, ViTConfig
from vitrail.errors import WeightsError
from vitrail.models.trace import trace
from vitrail.weights.load import FORMATS, load_weights
from vitrail.weights.rename import write_tensors

FILE, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
TEXT = {"context_length": 8, "vocab_size": 30, "width": 16, "heads": 2, "layers": 1}
VISION: dict[str, Any] = {
    "image_size": 32,
    "layers": 2,
    "width": 48,
    "head_width": 12,
    "patch_size": 8,
    "mlp_ratio": 2.5,
}
TOWERS: list[tuple[dict[str, Any], dict[str, Any]]] = [  # fields of vision_cfg, of model_cfg
    ({}, {}),
    ({}, {"quick_gelu": True}),
    ({"image_size": [16, 40], "head_width": 16}, {"quick_gelu": True}),
    ({"image_size": 36}, {}),  # the last pixels are less than a patch
    ({"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}}, {}),
    ({"ls_init_value": 0.1}, {}),
    ({"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}, {}),  # CLIPA
    ({"pool_type": "avg"}, {"custom_text": True}),
    ({"pos_embed_type": "sin_cos_2d"}, {}),
]
TRUNKS = [
    ("vit_tiny_patch16_224", "token", "linear"),
    ("vit_tiny_patch16_224", "map", "none"),  # as SigLIP's towers are
    ("vit_tiny_patch16_224", "token", None),  # timm's own head
    ("vit_xsmall_patch16_clip_224", "", "linear"),
]


def create(vision: dict[str, Any], model: dict[str, Any], kind: type[CLIP] = CLIP) -> CLIP:
    torch.manual_seed(0)
    options = {key: value for key, value in model.items() if key != "custom_text"}
    kind = CustomTextCLIP if "custom_text" in model else kind
    made = kind(embed_dim=24, vision_cfg=vision, text_cfg=TEXT, **options).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=0.3)
    return made


def save(folder: Path, made: CLIP, vision: dict[str, Any] | None, model: dict[str, Any] | None = None) -> Path:
    """A folder as `push_to_hf_hub` fills one; without its description where `vision` is None."""
    state = {key: t for key, t in made.state_dict().items() if t.is_floating_point()}
    save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, folder / FILE)
    if vision is not None:
        table = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, **(model or {})}
        preprocess = {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "interpolation": "bilinear",
            "resize_mode": "squash",
        }
        (folder / CONFIG).write_text(json.dumps({"model_cfg": table, "preprocess_cfg": preprocess}))
    return folder


def assert_survives(folder: Path) -> None:
    """Written back with its passengers, the file is the same bit for bit."""
    loaded = load_weights(folder)
    rules = FORMATS[loaded.form].rules(loaded.model.config)
    written = write_tensors(loaded.model.state_dict(), rules) | dict(loaded.passengers)
    original = load_file(folder / FILE)
    assert written.keys() == original.keys() and all(torch.equal(written[key], original[key]) for key in original)


@pytest.mark.parametrize(("vision", "model"), TOWERS, ids=str)
@torch.no_grad()
def test_features_equal_open_clip_s(tmp_path: Path, vision: dict[str, Any], model: dict[str, Any]) -> None:
    theirs = create(VISION | vision, model)
    loaded = load_weights(save(tmp_path, theirs, VISION | vision, model))
    assert loaded.form == "open_clip"
    assert_survives(tmp_path)
    assert "logit_scale" in loaded.passengers
    ours, tower = loaded.model.double(), theirs.visual.double()
    images = torch.randn(2, 3, *ours.config.image_size, dtype=torch.float64)
    features, record = trace(ours, images)
    expected = tower(images)
    assert expected.std() > 0.1
    assert (ours(images) - expected).abs().max() < 1e-9
    assert (features - expected).abs().max() < 1e-9
    tokens = tower.transformer(tower._embeds(images))
    assert (record.blocks[-1].after_mlp - tokens).abs().max() < 1e-9
    assert (record.tokens - tower.ln_post(tokens)).abs().max() < 1e-9
    assert loaded.preprocess == Preprocess(
        size=ours.config.image_size, resize="squash", crop=1.0, interpolation="bilinear", mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
    )  # fmt: skip


@pytest.mark.parametrize(("vision", "model"), TOWERS[:-1], ids=str)
@torch.no_grad()
def test_what_is_written_loads_in_open_clip(tmp_path: Path, vision: dict[str, Any], model: dict[str, Any]) -> None:
    theirs = create(VISION | vision, model)
    loaded = load_weights(save(tmp_path, theirs, VISION | vision, model))
    form = FORMATS[loaded.form]
    assert form.companions is not None
    files = form.companions(loaded.model.config, loaded.preprocess, None)
    table = files[CONFIG]
    table["model_cfg"] |= {"text_cfg": TEXT} | {key: model[key] for key in model if key == "custom_text"}
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(table))
    state = write_tensors(loaded.model.state_dict(), form.rules(loaded.model.config)) | dict(loaded.passengers)
    save_file(state, folder / FILE)
    again, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    images = torch.randn(2, 3, *loaded.model.config.image_size)
    assert torch.equal(again.eval().visual(images), theirs.visual(images))
    assert tuple(transform.transforms[-1].mean) == loaded.preprocess.mean
    assert load_weights(folder).model.config == loaded.model.config


@torch.no_grad()
def test_a_tower_alone_and_one_trained_on_several_devices_are_read(tmp_path: Path) -> None:
    theirs = create(VISION, {})
    save(tmp_path, theirs, VISION)
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = theirs.visual.double()(images)
    for form, prefix in (("open_clip-visual", ""), ("open_clip", "module.visual.")):
        state = {prefix + key: tensor.float() for key, tensor in theirs.visual.state_dict().items()}
        save_file(state, tmp_path / FILE)
        loaded = load_weights(tmp_path / FILE)
        assert loaded.form == form and not loaded.passengers
        assert (loaded.model.double()(images) - expected).abs().max() < 1e-9


@torch.no_grad()
def test_another_image_size_equals_open_clip_s(tmp_path: Path) -> None:
    theirs = create(VISION, {"quick_gelu": True})
    ours = load_weights(save(tmp_path, theirs, VISION, {"quick_gelu": True}), image_size=(24, 48)).model
    larger = create(VISION | {"image_size": [24, 48]}, {"quick_gelu": True})
    state = theirs.state_dict()
    open_clip.model.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    images = torch.randn(1, 3, 24, 48, dtype=torch.float64)
    assert (ours.double()(images) - larger.visual.double()(images)).abs().max() < 1e-9


def test_without_a_description_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"which GELU this CLIP has, .* put its open_clip_config\.json beside it"):
        load_weights(save(tmp_path, create(VISION, {}), None))


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"attentional_pool": True}, "has attentional_pool=True; only False is read"),
        ({"qk_norm": True}, "has qk_norm=True; only False is read"),
        ({"pool_type": "none"}, "has pool_type='none'; known: tok, avg"),
        ({"act_kwargs": {"approximate": "erf"}}, "has act_kwargs="),
        ({"norm_kwargs": {"eps": 1e-6, "bias": False}}, "only eps is read"),
        ({"pool_typ": "tok"}, "has the vision_cfg field 'pool_typ'; did you mean 'pool_type'"),
    ],
)
def test_options_of_other_towers_are_refused_by_name(tmp_path: Path, vision: dict[str, Any], message: str) -> None:
    save(tmp_path, create(VISION, {}), VISION | vision)
    with pytest.raises(WeightsError, match=message):
        load_weights(tmp_path)


@pytest.mark.parametrize(("name", "pool", "projection"), TRUNKS)
@torch.no_grad()
def test_a_tower_of_timm_s_is_read(tmp_path: Path, name: str, pool: str, projection: str | None) -> None:
    vision = {"image_size": 224, "timm_model_name": name, "timm_pool": pool, "timm_proj": projection}
    theirs = create(vision, {}, CustomTextCLIP)
    loaded = load_weights(save(tmp_path, theirs, vision))
    assert loaded.form == "open_clip-timm"
    assert loaded.model.config.norm_eps == (1e-5 if "clip" in name else 1e-6)
    assert_survives(tmp_path)
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    expected = theirs.visual.double()(images)
    assert expected.std() > 0.1
    assert (loaded.model.double()(images) - expected).abs().max() < 1e-9


def test_a_tower_of_timm_s_needs_its_description_and_a_known_name(tmp_path: Path) -> None:
    vision = {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear"}
    theirs = create(vision, {}, CustomTextCLIP)
    with pytest.raises(WeightsError, match="which of timm's networks this image tower is"):
        load_weights(save(tmp_path, theirs, None))
    with pytest.raises(WeightsError, match="'vitamin_base_224' is not one of timm's networks"):
        load_weights(save(tmp_path, theirs, vision | {"timm_model_name": "vitamin_base_224"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_bias": True}, {"head_has_bias": True}, {"channels": 1}, {"registers": 1}, {"pool": "map"},
        {"classes": 0}, {"qkv_bias": False}, {"position": "none"}, {"mlp": "swiglu"},
    ],
    ids=str,
)  # fmt: skip
def test_what_open_clip_cannot_hold_is_named(changes: dict[str, Any]) -> None:
    tower: dict[str, Any] = {"norm_before": True, "patch_bias": False, "head_has_bias": False, "classes": 5}
    form = FORMATS["open_clip"]
    assert form.companions is not None
    assert form.companions(ViTConfig(**tower), Preprocess(crop=1.0), None)
    with pytest.raises(WeightsError, match="open_clip's visual tower cannot hold"):
        form.companions(ViTConfig(**tower | changes), Preprocess(crop=1.0), None)
    with pytest.raises(WeightsError, match="cannot hold a resize to more than the crop"):
        form.companions(ViTConfig(**tower), Preprocess(crop=0.9), None)
