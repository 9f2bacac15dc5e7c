"""timm's architecture names: the options that a name stands for and that no tensor's shape shows.

Names are matched without their tag (`.augreg_in1k`). A name that no row fits is refused: many of timm's differ from
the plain network by a constant only. Facts of timm 1.0 (models/vision_transformer.py, deit.py, eva.py); a test holds
every row to the installed timm.
"""

import re
from collections.abc import Mapping
from typing import Any

from vitrail.errors import WeightsError

# timm's two classes, and their defaults of the options that are read.
PLAIN: Mapping[str, Any] = {  # VisionTransformer
    "norm_eps": 1e-6, "act_layer": "gelu", "global_pool": "token", "fc_norm": None, "init_values": None,
    "no_embed_class": False, "pos_embed": "learn", "swiglu": False,
}  # fmt: skip
ROTARY: Mapping[str, Any] = {  # Eva, of which only the form with DINOv3's rotary positions is read
    "norm_eps": 1e-6, "act_layer": "gelu", "global_pool": "avg", "use_fc_norm": None, "init_values": None,
    "use_abs_pos_emb": True, "use_rot_pos_emb": False, "rope_type": "cat", "rope_temperature": 10_000.0,
    "rope_rotate_half": False, "rope_grid_offset": 0.0, "rope_grid_indexing": "ij", "attn_type": "eva",
    "swiglu_mlp": False, "attn_pool_num_heads": None,
}  # fmt: skip

_HEADS = {
    "tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16, "giant": 16, "gigantic": 16, "so400m": 16,
    "giantopt": 16, "xsmall": 4, "medium": 8, "mediumd": 8, "betwixt": 10, "wee": 4, "little": 5, "so150m": 14,
    "so150m2": 13, "small_plus": 6, "huge_plus": 20, "7b": 32,
}  # fmt: skip
_CLIP = {"norm_eps": 1e-5}
_MEAN = {"global_pool": "avg"}
_GAP = {"global_pool": "avg", "fc_norm": False}
_MAP = {"global_pool": "map"}
_TANH = {"act_layer": "gelu_tanh"}
_SCALED = {"init_values": 1e-5}
_REGISTERS = {"no_embed_class": True}
_SWIGLU = {"swiglu": True, "act_layer": "silu", "num_heads": 24}
_DINOV3 = {
    "norm_eps": 1e-5, "init_values": 1e-5, "use_fc_norm": False, "use_abs_pos_emb": False, "use_rot_pos_emb": True,
    "rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True,
}  # fmt: skip
_GATED = {"swiglu_mlp": True}

_PLAIN_ROWS: Mapping[str, Mapping[str, Any]] = {
    r"vit_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+(_miil)?": {},
    r"vit_base_patch16_gap_224": {**_GAP, "num_heads": 16},
    r"vit_(medium|betwixt)_patch16_gap_\d+": {**_GAP, "init_values": 1e-6},
    r"vit_(huge|giant)_patch\d+_gap_\d+": _GAP,
    r"vit_(xsmall|medium|betwixt|base|large|huge|giant|gigantic)_patch\d+_clip_\d+": _CLIP,
    r"vit_base_patch16_plus_clip_240": {**_CLIP, "num_heads": 14},
    r"vit_(base|large|huge|gigantic)_patch\d+_clip_quickgelu_\d+": {**_CLIP, "act_layer": "quick_gelu"},
    r"vit_base_patch(32_plus_256|16_plus_240)": {**_SCALED, "num_heads": 14},
    r"vit_small_patch16_36x1_224": _SCALED,
    r"eva_large_patch14_\d+": _MEAN,
    r"vit_(small|base|large)_patch14_dinov2": _SCALED,
    r"vit_(small|base|large)_patch14_reg4_dinov2": {**_SCALED, **_REGISTERS},
    r"vit_giant_patch14_dinov2": {**_SCALED, **_SWIGLU},
    r"vit_giant_patch14_reg4_dinov2": {**_SCALED, **_REGISTERS, **_SWIGLU},
    r"vit_(base|large|so400m)_patch14_reg1_tipsv2": {**_REGISTERS, "init_values": 1.0},
    r"vit_giant_patch14_reg1_tipsv2": {**_REGISTERS, **_SWIGLU, "init_values": 1.0},
    r"vit_(base_patch16|so400m_patch14)_siglip_\d+|vit_large_patch16_siglip_(256|384)": _MAP,
    r"vit_(base_patch32|(so400m|giantopt)_patch16)_siglip_\d+|vit_large_patch16_siglip_512": {**_MAP, **_TANH},
    r"vit_(base_patch16|so400m_patch14)_siglip_gap_\d+|vit_large_patch16_siglip_gap_(256|384)": _GAP,
    r"vit_(base_patch32|(so400m|giantopt)_patch16)_siglip_gap_\d+|vit_large_patch16_siglip_gap_512": {**_GAP, **_TANH},
    r"vit_(wee|little|medium|mediumd|betwixt)_patch16_reg\d_gap_\d+": {**_SCALED, **_REGISTERS, **_MEAN},
    r"vit_base_patch16_reg4_gap_256": {**_REGISTERS, **_MEAN},
    r"vit_so150m_patch16_reg4_map_256": _MAP,
    r"vit_so150m_patch16_reg4_gap_\d+": _GAP,
    r"vit_so150m2_patch16_reg1_gap_\d+": {**_SCALED, **_MEAN},
    r"flexivit_small": {**_REGISTERS, "num_heads": 6},
    r"flexivit_base": {**_REGISTERS, "num_heads": 12},
    r"flexivit_large": {**_REGISTERS, "num_heads": 16},
    r"deit_(tiny|small|base)_(distilled_)?patch16_\d+": {},
    r"deit3_(small|medium|base|large|huge)_patch\d+_\d+": {**_REGISTERS, "init_values": 1e-6},
}
_ROTARY_ROWS: Mapping[str, Mapping[str, Any]] = {
    r"vit_(tiny|small|base|large)_patch16_dinov3(_qkvb)?": _DINOV3,
    r"vit_(small_plus|huge_plus)_patch16_dinov3(_qkvb)?|vit_7b_patch16_dinov3": {**_DINOV3, **_GATED},
    r"vit_(small|base|large)_patch16_lingbot": {**_DINOV3, "global_pool": "token"},
    r"vit_giant_patch16_lingbot": {**_DINOV3, **_GATED, "global_pool": "token", "num_heads": 24},
    # what a rotary model without LayerScale, or with another eps, is written as: everything else is overridden
    r"eva02_tiny_patch14_224": {"num_heads": 3, "use_rot_pos_emb": True, **_GATED},
    r"vit_pe_core_tiny_patch16_384": {
        "num_heads": 3, "norm_eps": 1e-5, "use_rot_pos_emb": True, "attn_type": "rope", "global_pool": "map",
        "rope_grid_offset": 1.0, "rope_grid_indexing": "xy", "attn_pool_num_heads": 8,
    },
}  # fmt: skip


def options_of(architecture: str) -> dict[str, Any]:
    """The options that the name stands for, defaults included, with `rotary`: whether its class is Eva. WeightsError
    where no row fits."""
    name = architecture.split(".")[0]
    for defaults, rows in ((PLAIN, _PLAIN_ROWS), (ROTARY, _ROTARY_ROWS)):
        for pattern, options in rows.items():
            if re.fullmatch(pattern, name):
                return {"rotary": rows is _ROTARY_ROWS, **defaults, **_heads(name), **options}
    raise WeightsError(
        f"the architecture {architecture!r} is not one of timm's networks that are read: plain ViT, DeiT, DeiT III, "
        "CLIP, SigLIP, DINOv2 and DINOv3 by their names there"
    )


def _heads(name: str) -> dict[str, int]:
    size = re.match(r"(?:vit|deit3?|eva)_(\w+?)(?:_distilled)?_patch", name)
    return {"num_heads": _HEADS[size[1]]} if size is not None and size[1] in _HEADS else {}
