"""What a weights file or folder holds, without reading its numbers or running anything: headers and descriptions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.config import Preprocess, ResNetConfig, ViTConfig
from vitrail.models.catalog import MODELS, ModelConfig
from vitrail.models.cost import flops, parameters
from vitrail.types import LabelSet
from vitrail.weights.load import identify

_SIZES = ("patch_size", "width", "depth", "heads", "mlp_dim", "stem", "layers")


@dataclass(frozen=True)
class Inspection:
    """What is known of a source. `unusual`: what differs from the plain Vision Transformer, in words."""

    source: str
    format: str
    name: str | None  # of the row of models/catalog.py with these sizes
    config: ModelConfig
    parameters: int
    flops: int  # of one image
    dtypes: tuple[str, ...]
    preprocess: Preprocess
    labels: LabelSet | None
    licence: str | None
    passengers: tuple[str, ...]
    unusual: tuple[str, ...]
    assumed: tuple[str, ...]  # what the source does not tell: its library's usual values stand there

    def json(self) -> dict[str, Any]:
        """All of it as a JSON table."""
        kind = "vit" if isinstance(self.config, ViTConfig) else "resnet"
        return {
            "source": self.source,
            "format": self.format,
            "model": self.name,
            "architecture": {"kind": kind, **self.config.model_dump(mode="json")},
            "parameters": self.parameters,
            "flops": self.flops,
            "dtypes": list(self.dtypes),
            "preprocess": self.preprocess.model_dump(mode="json"),
            "labels": None if self.labels is None else list(self.labels.names),
            "ids": None if self.labels is None or self.labels.ids is None else list(self.labels.ids),
            "licence": self.licence,
            "passengers": list(self.passengers),
            "unusual": list(self.unusual),
            "assumed": list(self.assumed),
        }


def inspect_weights(
    source: str | Path, model: str | None = None, *, image_size: tuple[int, int] | None = None
) -> Inspection:
    """Look at what `load_weights` would load. `image_size` (rows, cols) is for a file that does not tell it. Raises
    what that raises, but for numbers that are not finite."""
    found = identify(source, model, image_size)
    stored, shown = found.config.image_size, found.preprocess.size
    facts = unusual(found.config)
    if stored != shown:
        sizes = [" x ".join(map(str, size)) for size in (shown, stored)]
        facts.append("images are shown at {} px, to which the positions, of {} px, are resampled".format(*sizes))
    return Inspection(
        source=str(source),
        format=found.form.name,
        name=size_name(found.config),
        config=found.config,
        parameters=parameters(found.config),
        flops=flops(found.config),
        dtypes=tuple(sorted(found.dtypes)),
        preprocess=found.preprocess,
        labels=found.labels,
        licence=found.stored.licence,
        passengers=tuple(sorted(found.riding)),
        unusual=tuple(facts),
        assumed=found.assumed,
    )


def size_name(config: ModelConfig) -> str | None:
    """The name of the catalog's row of the same sizes, whatever the other options."""
    for name, row in MODELS.items():
        if type(row) is type(config) and all(_size(row, f) == _size(config, f) for f in _SIZES if hasattr(row, f)):
            return name
    return None


def _size(config: ModelConfig, field: str) -> Any:
    value = getattr(config, field)
    return (value.layers, value.width) if isinstance(value, ResNetConfig) else value


def unusual(config: ModelConfig) -> list[str]:
    """What differs from the plain Vision Transformer: exact GELU, eps 1e-6, a class token that is read, learned
    positions for it and the patches, all biases."""
    if isinstance(config, ResNetConfig):
        return ["a ResNet with group norms and standardised weights, no Vision Transformer"]
    rows, cols = config.image_size
    facts = {
        f"a hybrid: its patches are of a ResNet's features, {config.patch_pixels[0]} px apart": config.stem is not None,
        "the tanh approximation of the GELU": config.gelu == "tanh",
        "OpenAI's quick GELU": config.gelu == "quick",
        "a gated MLP (SwiGLU)": config.mlp == "swiglu",
        f"the norms' eps is {config.norm_eps:g}": config.norm_eps != 1e-6,
        f"an image of {rows} x {cols} px": rows != cols,
        f"patches of {config.patch_size[0]} x {config.patch_size[1]}": config.patch_size[0] != config.patch_size[1],
        f"{config.channels} channels": config.channels != 3,
        "the last rows and columns of the image are less than a patch and not seen": config.cut_patches,
        "no class token": not config.class_token,
        "a distillation token whose head counts half": config.distilled,
        "a distillation token that is not read": config.distillation_token and not config.distilled,
        f"{config.registers} registers": config.registers > 0,
        _POOLS.get(config.pool, ""): config.pool in _POOLS,
        "a class token that is not read": config.class_token and config.pool in ("gap", "map"),
        "the last norm comes after pooling": config.norm_after_pool and config.pool != "token",
        f"a tanh layer of {config.pre_logits} before the head (pre_logits)": config.pre_logits is not None,
        "no head: it gives features": not config.classes,
        _POSITIONS.get(config.position, ""): config.position in _POSITIONS,
        "the tokens before the patches have no positions": config.position == "learned"
        and config.prefix > 0
        and not config.position_rows,
        "a norm between embedding and blocks": config.norm_before,
        f"the head reads the class tokens of the last {config.pool_blocks} blocks": config.pool_blocks > 1,
        "LayerScale": config.layer_scale is not None,
        "norms on queries and keys": config.qk_norm,
        "no biases on queries, keys and values": not config.qkv_bias,
        "no biases on keys": config.qkv_bias and not config.key_bias,
        "no bias on the patch embedding": not config.patch_bias,
        "no bias on the head": config.classes > 0 and not config.head_has_bias,
    }
    return [text for text, holds in facts.items() if holds]


_POOLS = {
    "gap": "the head reads the mean of the patches",
    "map": "the head reads what a learned query attends to (attention pooling)",
    "token_gap": "the head reads the class token and the mean of the patches side by side",
}
_POSITIONS = {
    "sincos2d": "fixed sine and cosine positions",
    "rope": "rotary positions, in every block",
    "none": "no positions",
}
