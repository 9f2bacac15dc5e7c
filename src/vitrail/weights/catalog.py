"""Published weights by name: where they lie, what they are, under which licence, and what they score by whose protocol.

A number is the publisher's own, never ours; None where none is published for these very weights. Sources: timm 1.0's
registry (ids, licences, sizes) and its results/results-imagenet.csv of August 2026; the READMEs of
google-research/vision_transformer and big_vision (files, numbers); torchvision 0.29's weights enumeration; open_clip
3.3's table (ids); the READMEs of facebookresearch/dinov2 and dinov3, and the model cards behind the other ids. Tests
hold the rows to the installed timm, torchvision and open_clip. No row has a sha256: none of these publishers states
one that could be confirmed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vitrail.config import Preprocess
from vitrail.errors import UnknownName
from vitrail.weights.publishers import (
    BASELINES,
    DINOV3,
    FLEXIVIT,
    JAX,
    OPEN_CLIP,
    SIGLIP,
    TORCHVISION,
    TRANSFORMERS,
)

Protocol: TypeAlias = Literal["gvt-squash", "bv-crop", "timm", "torchvision"]  # data/protocols.py runs them


@dataclass(frozen=True)
class Row:
    """One set of published weights. `model` is a row of models/catalog.py where that has one of its size, else words;
    `hub` is a Hugging Face id, `url` a file, `get` the command for weights that are published as a pickle."""

    name: str
    model: str
    image_size: int
    classes: int  # 0: features
    format: str  # a row of FORMATS in weights/load.py
    preprocess: str  # whose evaluation goes with the weights: their own files tell it
    licence: str
    labels: str | None  # what the classes are
    hub: str | None = None
    url: str | None = None
    get: str | None = None
    top1: float | None = None  # % on the validation images of ImageNet-1k
    protocol: Protocol | None = None  # by which that was measured
    source: str = ""  # of the number, else of the id
    patch_size: int | None = None  # FlexiViT: that of `model`, to which the file's kernel and positions are resized
    pixels: Preprocess | None = None  # `preprocess`, where neither the file nor its format tells it


_TIMM_TABLE = "timm, results/results-imagenet.csv"
_GVT = "README of google-research/vision_transformer"
_BUCKET = "https://storage.googleapis.com/vit_models"
_BIG_VISION = "https://storage.googleapis.com/big_vision"

# timm's: name, model, image side, classes, top-1 by timm's protocol at that size.
_Timm: TypeAlias = tuple[str, str, int, int, float | None]
_AUGREG: tuple[_Timm, ...] = (
    ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", "Ti/16", 224, 1000, 75.452),
    ("vit_tiny_patch16_384.augreg_in21k_ft_in1k", "Ti/16", 384, 1000, 78.438),
    ("vit_small_patch32_224.augreg_in21k_ft_in1k", "S/32", 224, 1000, 76.01),
    ("vit_small_patch32_384.augreg_in21k_ft_in1k", "S/32", 384, 1000, 80.476),
    ("vit_small_patch16_224.augreg_in21k_ft_in1k", "S/16", 224, 1000, 81.402),
    ("vit_small_patch16_384.augreg_in21k_ft_in1k", "S/16", 384, 1000, 83.814),
    ("vit_base_patch32_224.augreg_in21k_ft_in1k", "B/32", 224, 1000, 80.732),
    ("vit_base_patch32_384.augreg_in21k_ft_in1k", "B/32", 384, 1000, 83.358),
    ("vit_base_patch16_224.augreg2_in21k_ft_in1k", "B/16", 224, 1000, 85.108),
    ("vit_base_patch16_224.augreg_in21k_ft_in1k", "B/16", 224, 1000, 84.534),
    ("vit_base_patch16_384.augreg_in21k_ft_in1k", "B/16", 384, 1000, 86.01),
    ("vit_base_patch8_224.augreg2_in21k_ft_in1k", "B/8", 224, 1000, 86.252),
    ("vit_base_patch8_224.augreg_in21k_ft_in1k", "B/8", 224, 1000, 85.838),
    ("vit_large_patch16_224.augreg_in21k_ft_in1k", "L/16", 224, 1000, 85.856),
    ("vit_large_patch16_384.augreg_in21k_ft_in1k", "L/16", 384, 1000, 87.096),
)
_IN1K: tuple[_Timm, ...] = (
    ("vit_small_patch16_224.augreg_in1k", "S/16", 224, 1000, 78.842),
    ("vit_small_patch16_384.augreg_in1k", "S/16", 384, 1000, 81.13),
    ("vit_base_patch32_224.augreg_in1k", "B/32", 224, 1000, 74.908),
    ("vit_base_patch32_224.sam_in1k", "B/32", 224, 1000, 73.704),
    ("vit_base_patch32_384.augreg_in1k", "B/32", 384, 1000, 78.75),
    ("vit_base_patch16_224.augreg_in1k", "B/16", 224, 1000, 79.154),
    ("vit_base_patch16_224.sam_in1k", "B/16", 224, 1000, 80.246),
    ("vit_base_patch16_384.augreg_in1k", "B/16", 384, 1000, 81.102),
)
_ORIGINAL: tuple[_Timm, ...] = (
    ("vit_base_patch16_224.orig_in21k_ft_in1k", "B/16", 224, 1000, 81.782),
    ("vit_base_patch16_384.orig_in21k_ft_in1k", "B/16", 384, 1000, 84.212),
    ("vit_large_patch32_384.orig_in21k_ft_in1k", "L/32", 384, 1000, 81.508),
)
_IN21K: tuple[_Timm, ...] = (
    ("vit_tiny_patch16_224.augreg_in21k", "Ti/16", 224, 21843, None),
    ("vit_small_patch32_224.augreg_in21k", "S/32", 224, 21843, None),
    ("vit_small_patch16_224.augreg_in21k", "S/16", 224, 21843, None),
    ("vit_base_patch32_224.augreg_in21k", "B/32", 224, 21843, None),
    ("vit_base_patch32_224.orig_in21k", "B/32", 224, 0, None),
    ("vit_base_patch16_224.augreg_in21k", "B/16", 224, 21843, None),
    ("vit_base_patch16_224.orig_in21k", "B/16", 224, 0, None),
    ("vit_base_patch8_224.augreg_in21k", "B/8", 224, 21843, None),
    ("vit_large_patch32_224.orig_in21k", "L/32", 224, 0, None),
    ("vit_large_patch16_224.augreg_in21k", "L/16", 224, 21843, None),
    ("vit_large_patch16_224.orig_in21k", "L/16", 224, 0, None),
    ("vit_huge_patch14_224.orig_in21k", "H/14", 224, 0, None),
)
_DEIT: tuple[_Timm, ...] = (
    ("deit_tiny_distilled_patch16_224.fb_in1k", "Ti/16", 224, 1000, 74.538),
    ("deit_tiny_patch16_224.fb_in1k", "Ti/16", 224, 1000, 72.19),
    ("deit_small_distilled_patch16_224.fb_in1k", "S/16", 224, 1000, 81.204),
    ("deit_small_patch16_224.fb_in1k", "S/16", 224, 1000, 79.856),
    ("deit_base_distilled_patch16_224.fb_in1k", "B/16", 224, 1000, 83.384),
    ("deit_base_patch16_224.fb_in1k", "B/16", 224, 1000, 81.98),
    ("deit_base_distilled_patch16_384.fb_in1k", "B/16", 384, 1000, 85.438),
    ("deit_base_patch16_384.fb_in1k", "B/16", 384, 1000, 83.108),
)
_DEIT3: tuple[_Timm, ...] = (
    ("deit3_small_patch16_224.fb_in1k", "S/16", 224, 1000, 81.382),
    ("deit3_small_patch16_224.fb_in22k_ft_in1k", "S/16", 224, 1000, 83.082),
    ("deit3_small_patch16_384.fb_in1k", "S/16", 384, 1000, 83.432),
    ("deit3_small_patch16_384.fb_in22k_ft_in1k", "S/16", 384, 1000, 84.846),
    ("deit3_medium_patch16_224.fb_in1k", "M/16", 224, 1000, 83.09),
    ("deit3_medium_patch16_224.fb_in22k_ft_in1k", "M/16", 224, 1000, 84.55),
    ("deit3_base_patch16_224.fb_in1k", "B/16", 224, 1000, 83.8),
    ("deit3_base_patch16_224.fb_in22k_ft_in1k", "B/16", 224, 1000, 85.728),
    ("deit3_base_patch16_384.fb_in1k", "B/16", 384, 1000, 85.088),
    ("deit3_base_patch16_384.fb_in22k_ft_in1k", "B/16", 384, 1000, 86.742),
    ("deit3_large_patch16_224.fb_in1k", "L/16", 224, 1000, 84.772),
    ("deit3_large_patch16_224.fb_in22k_ft_in1k", "L/16", 224, 1000, 86.99),
    ("deit3_large_patch16_384.fb_in1k", "L/16", 384, 1000, 85.82),
    ("deit3_large_patch16_384.fb_in22k_ft_in1k", "L/16", 384, 1000, 87.736),
    ("deit3_huge_patch14_224.fb_in1k", "H/14", 224, 1000, 85.204),
    ("deit3_huge_patch14_224.fb_in22k_ft_in1k", "H/14", 224, 1000, 87.18),
)
_DINOV2: tuple[_Timm, ...] = (
    ("vit_small_patch14_dinov2.lvd142m", "S/14", 518, 0, None),
    ("vit_small_patch14_reg4_dinov2.lvd142m", "S/14", 518, 0, None),
    ("vit_base_patch14_dinov2.lvd142m", "B/14", 518, 0, None),
    ("vit_base_patch14_reg4_dinov2.lvd142m", "B/14", 518, 0, None),
    ("vit_large_patch14_dinov2.lvd142m", "L/14", 518, 0, None),
    ("vit_large_patch14_reg4_dinov2.lvd142m", "L/14", 518, 0, None),
    ("vit_giant_patch14_dinov2.lvd142m", "g/14 gated", 518, 0, None),
    ("vit_giant_patch14_reg4_dinov2.lvd142m", "g/14 gated", 518, 0, None),
)
_DINOV3: tuple[_Timm, ...] = (
    ("vit_small_patch16_dinov3.lvd1689m", "S/16", 256, 0, None),
    ("vit_small_plus_patch16_dinov3.lvd1689m", "S+/16", 256, 0, None),
    ("vit_base_patch16_dinov3.lvd1689m", "B/16", 256, 0, None),
    ("vit_large_patch16_dinov3.lvd1689m", "L/16", 256, 0, None),
    ("vit_huge_plus_patch16_dinov3.lvd1689m", "H+/16", 256, 0, None),
    ("vit_7b_patch16_dinov3.lvd1689m", "7B/16", 256, 0, None),
)
_FLEXIVIT: tuple[_Timm, ...] = (
    ("flexivit_small.300ep_in1k", "S/16", 240, 1000, 82.17),
    ("flexivit_small.600ep_in1k", "S/16", 240, 1000, 82.388),
    ("flexivit_small.1200ep_in1k", "S/16", 240, 1000, 82.576),
    ("flexivit_base.300ep_in1k", "B/16", 240, 1000, 84.402),
    ("flexivit_base.600ep_in1k", "B/16", 240, 1000, 84.564),
    ("flexivit_base.1200ep_in1k", "B/16", 240, 1000, 84.678),
    ("flexivit_base.300ep_in21k", "B/16", 240, 21843, None),
    ("flexivit_base.1000ep_in21k", "B/16", 240, 21843, None),
    ("flexivit_large.300ep_in1k", "L/16", 240, 1000, 85.284),
    ("flexivit_large.600ep_in1k", "L/16", 240, 1000, 85.53),
    ("flexivit_large.1200ep_in1k", "L/16", 240, 1000, 85.646),
)
_SIGLIP: tuple[_Timm, ...] = (
    ("vit_base_patch32_siglip_256.v2_webli", "B/32", 256, 0, None),
    ("vit_base_patch16_siglip_224.v2_webli", "B/16", 224, 0, None),
    ("vit_base_patch16_siglip_224.webli", "B/16", 224, 0, None),
    ("vit_base_patch16_siglip_256.v2_webli", "B/16", 256, 0, None),
    ("vit_base_patch16_siglip_256.webli", "B/16", 256, 0, None),
    ("vit_base_patch16_siglip_384.v2_webli", "B/16", 384, 0, None),
    ("vit_base_patch16_siglip_384.webli", "B/16", 384, 0, None),
    ("vit_base_patch16_siglip_512.v2_webli", "B/16", 512, 0, None),
    ("vit_base_patch16_siglip_512.webli", "B/16", 512, 0, None),
    ("vit_large_patch16_siglip_256.v2_webli", "L/16", 256, 0, None),
    ("vit_large_patch16_siglip_256.webli", "L/16", 256, 0, None),
    ("vit_large_patch16_siglip_384.v2_webli", "L/16", 384, 0, None),
    ("vit_large_patch16_siglip_384.webli", "L/16", 384, 0, None),
    ("vit_large_patch16_siglip_512.v2_webli", "L/16", 512, 0, None),
    ("vit_so400m_patch16_siglip_256.v2_webli", "So400m/16", 256, 0, None),
    ("vit_so400m_patch16_siglip_384.v2_webli", "So400m/16", 384, 0, None),
    ("vit_so400m_patch16_siglip_512.v2_webli", "So400m/16", 512, 0, None),
    ("vit_so400m_patch14_siglip_224.v2_webli", "So400m/14", 224, 0, None),
    ("vit_so400m_patch14_siglip_224.webli", "So400m/14", 224, 0, None),
    ("vit_so400m_patch14_siglip_378.v2_webli", "So400m/14", 378, 0, None),
    ("vit_so400m_patch14_siglip_378.webli", "So400m/14", 378, 0, None),
    ("vit_so400m_patch14_siglip_378.webli_ft_in1k", "So400m/14", 378, 1000, 89.41),
    ("vit_so400m_patch14_siglip_384.webli", "So400m/14", 384, 0, None),
)
_CLIP: tuple[_Timm, ...] = (
    ("vit_base_patch32_clip_224.laion2b", "B/32", 224, 512, None),
    ("vit_base_patch32_clip_224.laion2b_ft_in1k", "B/32", 224, 1000, 82.614),
    ("vit_base_patch32_clip_224.openai_ft_in1k", "B/32", 224, 1000, 81.944),
    ("vit_base_patch16_clip_224.laion2b", "B/16", 224, 512, None),
    ("vit_base_patch16_clip_224.laion2b_ft_in1k", "B/16", 224, 1000, 85.488),
    ("vit_base_patch16_clip_224.openai_ft_in1k", "B/16", 224, 1000, 85.282),
    ("vit_base_patch16_clip_384.laion2b_ft_in1k", "B/16", 384, 1000, 86.638),
    ("vit_base_patch16_clip_384.openai_ft_in1k", "B/16", 384, 1000, 86.21),
    ("vit_large_patch14_clip_224.laion2b", "L/14", 224, 768, None),
    ("vit_large_patch14_clip_224.laion2b_ft_in1k", "L/14", 224, 1000, 87.288),
    ("vit_large_patch14_clip_224.openai_ft_in1k", "L/14", 224, 1000, 87.858),
    ("vit_large_patch14_clip_336.laion2b_ft_in1k", "L/14", 336, 1000, 87.87),
    ("vit_huge_patch14_clip_224.laion2b", "H/14", 224, 1024, None),
    ("vit_huge_patch14_clip_224.laion2b_ft_in1k", "H/14", 224, 1000, 87.612),
    ("vit_giant_patch14_clip_224.laion2b", "g/14", 224, 1024, None),
    ("vit_gigantic_patch14_clip_224.laion2b", "G/14", 224, 1280, None),
)


def _labels(classes: int) -> str | None:
    named = {0: None, 1000: "ImageNet-1k", 21843: "ImageNet-21k"}
    return named.get(classes, "a space shared with texts")


def _timm(rows: Iterable[_Timm], licence: str = "apache-2.0") -> list[Row]:
    return [
        Row(
            *(name, model, side, classes, "timm", "timm", licence),
            labels=_labels(classes),
            hub=f"timm/{name}",
            top1=top1,
            protocol=None if top1 is None else "timm",
            source="timm's registry" if top1 is None else _TIMM_TABLE,
        )
        for name, model, side, classes, top1 in rows
    ]


def _jax() -> list[Row]:
    return [
        Row(
            *(name, model, side, classes, "npz", "gvt-squash", "apache-2.0"),
            labels=_labels(classes),
            url=f"{_BUCKET}/{file}.npz",
            top1=top1,
            protocol=None if top1 is None else "gvt-squash",
            source=_GVT,
        )
        for name, model, side, classes, top1, file in JAX
    ]


def _big_vision() -> list[Row]:
    """FlexiViTs distilled on ImageNet-1k (i1k_deit3_distill.py) are evaluated on squashed images,
    `resize(272)|central_crop(240)`; those of ImageNet-21k (i21k_sup.py) by `resize_small(272)|central_crop(240)`."""
    crop = Preprocess(size=(240, 240), crop=240 / 272, interpolation="area", odd_margin="down")
    squash = crop.model_copy(update={"resize": "squash", "interpolation": "bilinear", "antialias": False})
    flexi = [
        Row(
            *(name, model, 240, classes, "big_vision", "flexivit", "apache-2.0"),
            labels=_labels(classes),
            url=f"{_BIG_VISION}/flexivit/{name}.npz",
            source="big_vision, configs/proj/flexivit/README.md",
            patch_size=16,
            pixels=squash if classes == 1000 else crop,
        )
        for name, model, classes in FLEXIVIT
    ]
    plain = [
        Row(
            *(name, "S/16", 224, 1000, "big_vision", "bv-crop", "apache-2.0"),
            labels=_labels(1000),
            url=f"{_BIG_VISION}/{name}.npz",
            top1=top1,
            protocol=None if top1 is None else "bv-crop",
            source="big_vision, configs/vit_s16_i1k.py",
        )
        for name, top1 in BASELINES
    ]
    siglip = [
        Row(
            *(name, model, side, 0, "big_vision", "gvt-squash", "apache-2.0"),
            labels=None,
            url=f"{_BIG_VISION}/{file}.npz",
            source="big_vision, models/proj/image_text/two_towers.py",
        )
        for name, model, side, file in SIGLIP
    ]
    return [*flexi, *plain, *siglip]


def _open_clip() -> list[Row]:
    return [
        Row(
            *(hub.partition("/")[2], model, side, width, "open_clip", "open_clip", "mit"),
            labels=_labels(width),
            hub=hub,
            source="open_clip's pretrained.py",
        )
        for hub, model, side, width in OPEN_CLIP
    ]


def _dinov3() -> list[Row]:
    return [
        Row(
            *(name, model, 224, 0, "dinov3", "dinov3", "dinov3-license"),
            labels=None,
            get=f"import torch, safetensors.torch as s; s.save_file({{k: v.contiguous() for k, v in torch.load("
            f"'{name}.pth', weights_only=True).items()}}, '{name}.safetensors')",
            source="facebookresearch/dinov3, hub/backbones.py",
        )
        for name, model in DINOV3
    ]


def _transformers() -> list[Row]:
    licences = {"openai": "mit", "facebook/dinov3": "dinov3-license"}
    return [
        Row(
            *(hub.partition("/")[2], model, side, classes, form, "transformers"),
            licence=next((licence for start, licence in licences.items() if hub.startswith(start)), "apache-2.0"),
            labels=_labels(classes),
            hub=hub,
            source="its model card",
        )
        for hub, model, side, classes, form in TRANSFORMERS
    ]


def _torchvision() -> list[Row]:
    return [
        Row(
            *(name, model, side, 1000, "torchvision", "torchvision", licence),
            labels=_labels(1000),
            get=f"import torchvision, safetensors.torch as s; s.save_file(torchvision.models.get_weight('{name}')"
            f".get_state_dict(check_hash=True), '{name}.safetensors')",
            top1=top1,
            protocol="torchvision",
            source="torchvision's weights enumeration",
        )
        for name, model, side, top1, licence in TORCHVISION
    ]


CATALOG: dict[str, Row] = {
    row.name: row
    for row in (
        *_timm((*_AUGREG, *_IN1K, *_ORIGINAL, *_IN21K, *_DEIT, *_DEIT3, *_DINOV2, *_FLEXIVIT, *_SIGLIP, *_CLIP)),
        *_timm(_DINOV3, "dinov3-license"),
        *_jax(),
        *_big_vision(),
        *_dinov3(),
        *_transformers(),
        *_open_clip(),
        *_torchvision(),
    )
}


def find_row(name: str) -> Row:
    """The row called `name`, or whose Hugging Face id that is. UnknownName with close matches otherwise."""
    if (row := published(name)) is not None:
        return row
    raise UnknownName("weights", name, CATALOG)


def published(name: str) -> Row | None:
    """The row called `name`, or whose Hugging Face id that is, where there is one."""
    return CATALOG.get(name) or next((row for row in CATALOG.values() if row.hub == name), None)
