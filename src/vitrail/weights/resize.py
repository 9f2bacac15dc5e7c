"""The same network for another image size, patch size, number of channels or number of classes."""

import torch
from pydantic import ValidationError
from torch import Tensor

from vitrail.config import ResNetConfig, ViTConfig
from vitrail.errors import ConfigError, config_error
from vitrail.models.build import Network, build
from vitrail.models.catalog import ModelConfig
from vitrail.ops.grid import average_channels, resample_patch_kernel, resample_positions


@torch.no_grad()
def resized(
    model: Network,
    *,
    image_size: tuple[int, int] | None = None,
    patch_size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: int | None = None,
) -> Network:
    """The model with what is not None changed: positions resampled by the config's rule, the patch embedding by the
    pseudo-inverse (FlexiViT), channels averaged, and a new zero head where the classes differ. ConfigError."""
    asked = {"image_size": image_size, "patch_size": patch_size, "channels": channels, "classes": classes}
    changes: dict[str, object] = {
        k: v for k, v in asked.items() if v is not None and v != getattr(model.config, k, None)
    }
    if not changes:
        return model
    old = model.config
    if isinstance(old, ResNetConfig) and "patch_size" in changes:
        raise ConfigError("a ResNet has no patches to resize")
    config = _changed(old, changes)
    state = dict(model.state_dict())
    if isinstance(config, ViTConfig) and isinstance(old, ViTConfig):
        _resample(state, old, config)
    if old.channels != config.channels:
        key = "root.weight" if isinstance(old, ResNetConfig) else "patch_embedding.weight"
        key = "stem.root.weight" if "stem.root.weight" in state else key
        state[key] = average_channels(state[key], config.channels)
    new = build(config).to(next(model.parameters()).dtype)
    if old.classes != config.classes:
        heads = ("head.", "distillation_head.")
        state = {k: v for k, v in state.items() if not k.startswith(heads)}
        state |= {k: v for k, v in new.state_dict().items() if k.startswith(heads)}
    new.load_state_dict(state, strict=True)
    return new.train(model.training)


def _changed(old: ModelConfig, changes: dict[str, object]) -> ModelConfig:
    values = {**dict(old), **changes}
    if isinstance(old, ViTConfig) and old.stem is not None:
        shared = {k: v for k, v in changes.items() if k in ("image_size", "channels")}
        values["stem"] = old.stem.model_copy(update=shared)
    try:
        return type(old)(**values)
    except ValidationError as error:
        raise config_error(error, "model") from error


def _resample(state: dict[str, Tensor], old: ViTConfig, new: ViTConfig) -> None:
    if old.position == "learned":
        state["position_embedding"] = resample_positions(
            state["position_embedding"], old.grid, new.grid, prefix=old.position_rows, rule=old.position_rule
        )
    if old.patch_size != new.patch_size:
        state["patch_embedding.weight"] = resample_patch_kernel(state["patch_embedding.weight"], new.patch_size)
