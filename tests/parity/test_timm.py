"""The same numbers as timm's networks: random-normal weights, float64, 1e-9, through the shipped converter."""

import functools
import inspect
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from vitrail.config import ViTConfig
from vitrail.errors import WeightsError
from vitrail.models.catalog import MODELS, find_model
from vitrail.models.cost import parameters
from vitrail.models.trace import trace
from vitrail.ops.grid import resample_positions
from vitrail.weights.formats.timm import TIMM
from vitrail.weights.load import load_weights, model_shapes
from vitrail.weights.rename import file_shapes, write_tensors
from vitrail.weights.timm_names import options_of

TOY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "mlp_ratio": 2.5, "num_classes": 7}
SWIGLU = {"mlp_ratio": 2 * 64 / 48}
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("vit_base_patch16_224", {}),
    ("vit_base_patch16_224", {"in_chans": 1, "patch_size": (8, 4)}),
    ("vit_base_patch16_224", {"act_layer": "gelu_tanh", "qkv_bias": False}),
    ("vit_base_patch16_224", {"global_pool": "avg"}),  # class token there, not read; norm after the mean
    ("vit_base_patch16_224", {"global_pool": "avg", "fc_norm": False, "class_token": False}),
    ("vit_base_patch16_224", {"fc_norm": True}),
    ("vit_base_patch16_224", {"global_pool": "map"}),
    ("vit_base_patch16_224", {"global_pool": "map", "fc_norm": True, "act_layer": "quick_gelu"}),
    ("vit_base_patch16_224", {"qk_norm": True, "init_values": 0.1}),
    ("vit_base_patch16_224", {"pos_embed": "none"}),
    ("vit_base_patch16_224", {"reg_tokens": 3}),  # positions for the registers too
    ("vit_base_patch16_224", {"reg_tokens": 3, "no_embed_class": True}),
    ("vit_base_patch16_224", {"mlp_ratio": 67 / 48}),
    ("vit_base_patch16_224", {"num_classes": 0}),
    ("vit_medium_patch16_gap_240", {}),
    ("vit_base_patch16_clip_224", {}),
    ("vit_base_patch16_clip_quickgelu_224", {}),
    ("vit_base_patch32_siglip_256", {}),
    ("vit_base_patch16_siglip_224", {}),
    ("vit_so150m_patch16_reg4_map_256", {}),
    ("vit_so150m2_patch16_reg1_gap_256", {}),
    ("vit_medium_patch16_reg4_gap_256", {}),
    ("vit_small_patch14_dinov2", {}),
    ("vit_small_patch14_reg4_dinov2", {}),
    ("vit_giant_patch14_dinov2", SWIGLU),
    ("vit_giant_patch14_reg4_dinov2", SWIGLU | {"global_pool": "avg"}),
    ("deit_small_patch16_224", {}),
    ("deit_small_distilled_patch16_224", {}),
    ("deit3_small_patch16_224", {}),
    ("vit_small_patch16_dinov3", {}),
    ("vit_small_patch16_dinov3", {"global_pool": "token", "qk_norm": True}),
    ("vit_small_patch16_dinov3_qkvb", {}),
    ("vit_small_plus_patch16_dinov3_qkvb", {"global_pool": "token"}),
    ("vit_7b_patch16_dinov3", {"swiglu_align_to": 8}),
    ("vit_small_patch16_dinov3", {"attn_type": "rope", "qkv_bias": True, "rope_temperature": 37.0, "num_classes": 0}),
]


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """All parameters normal; a network's own initial values would hide what is swapped."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model.eval()


def exact(model: torch.nn.Module) -> torch.nn.Module:
    """The model in float64, with the rotary periods that timm computes in single precision computed in double."""
    model = model.double()
    if isinstance(model, Eva):
        model.rope.periods = model.rope.temperature ** (torch.arange(0, 1, 4 / model.rope.dim, dtype=torch.float64))
    return model


def create(architecture: str, options: dict[str, Any]) -> torch.nn.Module:
    return randomise(timm.create_model(architecture, **TOY | options))


def save(folder: Path, model: torch.nn.Module, architecture: str, options: dict[str, Any]) -> None:
    """Weights and config.json as timm's own `save_for_hf` writes them."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    given = {k: v for k, v in (TOY | options).items() if k != "num_classes"}
    config = {"architecture": architecture, "num_classes": model.num_classes, "model_args": given}
    config["pretrained_cfg"] = {"input_size": [model.patch_embed.proj.in_channels, *model.patch_embed.img_size]}
    (folder / "config.json").write_text(json.dumps(config))


# powers of two: timm computes the coordinates of rotary positions in single precision
@pytest.mark.parametrize("size", [(32, 32), (16, 64)], ids=str)
@pytest.mark.parametrize(("architecture", "options"), NETWORKS, ids=str)
def test_logits_and_features_equal_timm(
    tmp_path: Path, architecture: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    theirs = create(architecture, options | {"img_size": size})
    save(tmp_path, theirs, architecture, options | {"img_size": size})
    loaded = load_weights(tmp_path)
    written = write_tensors(loaded.model.state_dict(), TIMM.rules(loaded.model.config))
    original = load_file(tmp_path / "model.safetensors")
    assert written.keys() == original.keys()
    assert all(torch.equal(written[key], original[key]) for key in original)
    ours, theirs = loaded.model.double(), exact(theirs)
    images = torch.randn(2, ours.config.channels, *size, dtype=torch.float64)
    with torch.no_grad():
        logits, record = trace(ours, images)
        expected = theirs(images)
        assert expected.std() > 1e-3
        assert (ours(images) - expected).abs().max() < 1e-9
        assert (logits - expected).abs().max() < 1e-9
        if not ours.config.norm_after_pool:
            assert (record.tokens - theirs.forward_features(images)).abs().max() < 1e-9


@pytest.mark.parametrize("size", [(48, 48), (24, 40)], ids=str)
@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"reg_tokens": 2, "no_embed_class": True}], ids=str)
def test_another_image_size_equals_timm_s(tmp_path: Path, options: dict[str, Any], size: tuple[int, int]) -> None:
    theirs = create("vit_base_patch16_224", options)
    save(tmp_path, theirs, "vit_base_patch16_224", options)
    ours = load_weights(tmp_path, image_size=size).model.double()
    theirs.set_input_size(size)
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    # both resample the positions in single precision
    assert (ours(images) - theirs.double()(images)).abs().max() < 1e-6


def test_a_rotary_network_follows_another_image_size(tmp_path: Path) -> None:
    theirs = create("vit_small_patch16_dinov3_qkvb", {})
    save(tmp_path, theirs, "vit_small_patch16_dinov3_qkvb", {})
    ours = load_weights(tmp_path, image_size=(64, 32)).model.double()
    images = torch.randn(1, 3, 64, 32, dtype=torch.float64)
    theirs.set_input_size((64, 32))
    assert (ours(images) - exact(theirs)(images)).abs().max() < 1e-9


@pytest.mark.parametrize(("old", "new"), [((4, 4), (6, 6)), ((14, 14), (7, 9)), ((4, 6), (8, 8))])
def test_positions_are_resampled_as_timm_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    rows = torch.randn(1, 1 + old[0] * old[1], 12)
    expected = resample_abs_pos_embed(rows, new_size=list(new), old_size=list(old), num_prefix_tokens=1)
    assert (resample_positions(rows, old, new, rule="timm") - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("vit_tiny_patch16_224", {}), ("deit_tiny_distilled_patch16_224", {}), ("deit3_small_patch16_224", {})],
    ids=str,
)
def test_a_bare_file_needs_the_name_of_its_model(tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    theirs = randomise(timm.create_model(architecture, img_size=48, num_classes=7, **options))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    name = "S/16" if "small" in architecture else "Ti/16"
    with pytest.raises(WeightsError, match=f"heads is not in the file; say --model {name}, whose sizes it has"):
        load_weights(tmp_path / "model.safetensors")
    ours = load_weights(tmp_path / "model.safetensors", name.lower()).model.double()
    assert ours.config.image_size == (48, 48)
    images = torch.randn(1, 3, 48, 48, dtype=torch.float64)
    assert (ours(images) - theirs.double()(images)).abs().max() < 1e-9


def test_the_layer_scale_of_deit_three_s_own_files_is_read(tmp_path: Path) -> None:
    theirs = create("deit3_small_patch16_224", {})
    save(tmp_path, theirs, "deit3_small_patch16_224", {})
    tensors = load_file(tmp_path / "model.safetensors")
    own = {k.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): t for k, t in tensors.items()}
    assert own.keys() != tensors.keys()
    save_file(own, tmp_path / "model.safetensors")
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert (load_weights(tmp_path).model.double()(images) - theirs.double()(images)).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("vit_base_patch16_clip_224", {}, "which GELU and eps this CLIP or SigLIP network has is not in the file"),
        ("vit_base_patch16_siglip_224", {}, "which GELU and eps this CLIP or SigLIP network has is not in the file"),
        ("vit_base_patch16_224", {"pos_embed": "none"}, "whether they are rotary is in its config.json"),
        ("eva_giant_patch14_224", {}, "timm's class Eva with learned positions, which is not read"),
    ],
    ids=str,
)
def test_a_bare_file_that_leaves_a_doubt_is_refused(
    tmp_path: Path, architecture: str, options: dict[str, Any], message: str
) -> None:
    save_file(create(architecture, options).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_weights(tmp_path / "model.safetensors", "B/16")


def test_positions_that_fit_with_and_without_the_first_tokens_are_refused(tmp_path: Path) -> None:
    theirs = create("vit_base_patch16_224", {"reg_tokens": 4, "img_size": 16})  # 2 x 2 patches + 5 tokens = 3 x 3
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="9 positions fit a grid with and without its 5 first tokens"):
        load_weights(tmp_path / "model.safetensors", "B/16")


def entry_points() -> Iterator[tuple[str, dict[str, Any]]]:
    """timm's names of networks of these two classes, with the arguments that their functions pass."""
    import timm.models.deit as deit
    import timm.models.eva as eva
    import timm.models.vision_transformer as plain
    from timm.models._registry import _model_entrypoints

    for module in (plain, deit, eva):
        seen: dict[str, dict[str, Any]] = {}

        def record(_class: type, variant: str, _pretrained: bool, seen=seen, **arguments: Any) -> None:
            seen[variant] = arguments

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "build_model_with_cfg", record)
            for name, function in _model_entrypoints.items():
                if function.__module__ == module.__name__:
                    function()
                    yield name, seen[name]


def short(value: object) -> object:
    """A class or partial as the short name that the table has for it."""
    if isinstance(value, functools.partial):
        return value.keywords["eps"] if value.func.__name__ == "LayerNorm" else value.func.__name__
    return getattr(value, "__name__", value)


SHOWN = {  # arguments that names and shapes of tensors show, or that do nothing outside training
    "patch_size", "img_size", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "class_token", "reg_tokens", "pre_norm",
    "num_reg_tokens", "pretrained_filter_fn", "feature_cfg", "pretrained_strict", "dynamic_img_size", "ref_feat_shape",
    "swiglu_align_to", "use_pre_transformer_norm", "attn_pool_mlp_ratio",
}  # fmt: skip


def test_every_name_that_is_read_stands_for_timm_s_own_options() -> None:
    read = set()
    for name, arguments in entry_points():
        try:
            row = options_of(f"{name}.some_tag")
        except WeightsError:
            continue
        read.add(name)
        rotary = row.pop("rotary")
        assert rotary == arguments.get("use_rot_pos_emb", False), name
        defaults = inspect.signature(Eva if rotary else VisionTransformer).parameters
        theirs = {key: p.default for key, p in defaults.items()} | arguments
        theirs = {key: short(value) for key, value in theirs.items()}
        theirs["norm_eps"] = {"LayerNorm": 1e-6, None: 1e-6}.get(theirs["norm_layer"], theirs["norm_layer"])
        theirs["act_layer"] = {None: "gelu", "SiLU": "silu"}.get(theirs.get("act_layer"), theirs.get("act_layer"))
        theirs["swiglu"] = theirs.get("mlp_layer") == "GluMlp"
        assert theirs.get("block_fn", "Block") == "Block", name
        assert {key: theirs[key] for key in row} == row, name
        assert arguments.keys() - SHOWN - {"norm_layer", "mlp_layer"} <= row.keys(), name
    assert len(read) > 150
    assert {"vit_base_patch16_224", "deit3_huge_patch14_224", "vit_giant_patch14_reg4_dinov2"} <= read


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_rpn_224", "vit_small_patch16_18x2_224", "vit_base_patch16_xp_224",
        "vit_dwee_patch16_reg1_gap_256", "vit_pwee_patch16_reg1_gap_256", "vit_intern300m_patch14_448",
        "aimv2_large_patch14_224", "beit3_base_patch16_224", "vit_base_patch16_radio_v3", "test_vit3",
        "eva_giant_patch14_224", "vit_base_patch16_sapiens2", "vit_pe_core_base_patch16_224",
        "vit_base_patch16_rope_224", "vit_base_r50_s16_224", "resnet50",
    ],
)  # fmt: skip
def test_names_of_other_networks_are_refused(name: str) -> None:
    assert timm.is_model(name)
    with pytest.raises(WeightsError, match="is not one of timm's networks that are read"):
        options_of(name)


@pytest.mark.parametrize("name", [name for name, c in MODELS.items() if isinstance(c, ViTConfig) and c.stem is None])
def test_the_sizes_of_the_catalog_have_as_many_parameters_and_the_same_keys_in_timm(name: str) -> None:
    """On the meta device: the largest would take seven gigabytes."""
    config = find_model(name)
    assert isinstance(config, ViTConfig)
    ratio = config.mlp_dim / config.width
    theirs = VisionTransformer(
        img_size=config.image_size, patch_size=config.patch_size, embed_dim=config.width, depth=config.depth,
        num_heads=config.heads, mlp_ratio=ratio, weight_init="skip", device="meta",
    )  # fmt: skip
    assert sum(p.numel() for p in theirs.parameters()) == parameters(config)
    expected = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert file_shapes(TIMM.rules(config), model_shapes(config)) == expected


def test_the_sizes_of_the_catalog_have_the_heads_of_their_names() -> None:
    names = {"Ti/16": "tiny", "S/16": "small", "B/16": "base", "L/16": "large", "H/14": "huge", "g/14": "giant"}
    for row, name in names.items():
        assert options_of(f"vit_{name}_patch16_224")["num_heads"] == find_model(row).heads
    assert math.isclose(options_of("vit_base_patch16_clip_224")["norm_eps"], 1e-5)
