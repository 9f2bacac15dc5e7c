"""The libraries that the weight formats come from, where they are installed: files in the networks they are for.

They are nobody's dependency: a comparison that cannot be made says why. It is made in this room, since models, weights
and inference must never reach them, even indirectly.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.config import ViTConfig
from vitrail.weights.files import INDEX_FILE, MODEL_FILE, parts_of, read_file, read_json, weights_of

# The classes of transformers that are run, and those that a file of text and image names instead.
_CLASSES = (
    *("ViTModel", "ViTForImageClassification", "DeiTModel", "DeiTForImageClassification"),
    *("DeiTForImageClassificationWithTeacher", "Dinov2Model", "Dinov2ForImageClassification"),
    *("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification", "DINOv3ViTModel"),
    *("CLIPVisionModel", "CLIPVisionModelWithProjection", "SiglipVisionModel", "SiglipForImageClassification"),
)
_TOWERS = {"CLIPModel": "CLIPVisionModelWithProjection", "SiglipModel": "SiglipVisionModel"}


class NotCompared(Exception):
    """Why a library was not asked."""


def residuals_in_library(form: str, folder: Path, config: ViTConfig, images: Tensor) -> tuple[str, dict[str, Tensor]]:
    """The name and version of the library of a format, and what its network makes of `images` (B C H W, float64): the
    residual stream before the first and after each block, and the output. Raises NotCompared."""
    library = form.partition("-")[0]
    readers = {"timm": _timm, "transformers": _transformers, "torchvision": _torchvision, "open_clip": _open_clip}
    if library not in readers:
        raise NotCompared(f"no Python library of the layout {form} is known")
    if find_spec(library) is None:
        raise NotCompared(f"{library} is not installed")
    with _copied(folder) as copy:
        model = readers[library](copy, config).double().eval()
        with _in_float64(model):
            return f"{library} {_version(library)}", _residuals(model, config.depth, images)


@contextmanager
def _copied(folder: Path) -> Iterator[Path]:
    """The folder's weights and descriptions alone, in a folder of their own, without what could name other files: a
    description from a stranger must not make another library read anything that vitrail has not."""
    with tempfile.TemporaryDirectory(prefix="vitrail-") as name:
        copy = Path(name)
        weights = weights_of(folder)
        assert weights is not None, folder
        for part in parts_of(weights):
            (copy / part.name).symlink_to(part.resolve())
        if weights.name == INDEX_FILE:
            (copy / INDEX_FILE).write_text(weights.read_text("utf-8"), "utf-8")
        for path in folder.glob("*config.json"):
            table = read_json(path)
            for key in ("auto_map", "custom_pipelines", "_name_or_path", "tags"):
                table.pop(key, None)
            if isinstance(stored := table.get("pretrained_cfg"), dict):
                kept = ("num_classes", "input_size", "first_conv", "classifier")
                table["pretrained_cfg"] = {key: stored[key] for key in kept if key in stored}
            (copy / path.name).write_text(json.dumps(table), "utf-8")
        yield copy


def _timm(folder: Path, config: ViTConfig) -> nn.Module:
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True)


def _transformers(folder: Path, config: ViTConfig) -> nn.Module:
    import transformers

    name = str((read_json(folder / "config.json").get("architectures") or [""])[0])
    name = _TOWERS.get(name, name)
    if name not in _CLASSES:
        raise NotCompared(f"config.json names the class {name!r}, which is not run")
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it lists a text tower's tensors as unused
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        return getattr(transformers, name).from_pretrained(folder, use_safetensors=True, local_files_only=True)
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _torchvision(folder: Path, config: ViTConfig) -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        image_size=config.image_size[0],
        patch_size=config.patch_size[0],
        num_layers=config.depth,
        num_heads=config.heads,
        hidden_dim=config.width,
        mlp_dim=config.mlp_dim,
        num_classes=config.classes,
        representation_size=config.pre_logits,
    )
    model.load_state_dict(_tensors(folder))
    return model


def _open_clip(folder: Path, config: ViTConfig) -> nn.Module:
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    table = read_json(folder / "open_clip_config.json")
    model = table.get("model_cfg", table)
    vision = CLIPVisionCfg(**model["vision_cfg"])
    tower = _build_vision_tower(model["embed_dim"], vision, quick_gelu=model.get("quick_gelu", False))
    tensors = _tensors(folder)
    whole = any(key.startswith("visual.") for key in tensors)
    tower.load_state_dict(
        {k.removeprefix("visual."): t for k, t in tensors.items() if k.startswith("visual.") or not whole}
    )
    return tower


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder that `_copied` made, whose links are its own."""
    return read_file(folder / (MODEL_FILE if (folder / MODEL_FILE).is_file() else INDEX_FILE))


@contextmanager
def _in_float64(model: nn.Module) -> Iterator[None]:
    """DINOv3's angles in double precision: both libraries compute them in single precision whatever the model's, which
    alone moves the output by up to 1e-5. What is left is timm's centres of patches, single too, which are exact where
    the sides of the grid are powers of two and move the output by some 1e-8 elsewhere."""
    handles = []
    for module in model.modules():
        name = type(module).__name__
        if name == "DINOv3ViTRopePositionEmbedding":
            handles.append(module.register_forward_hook(_angles))
        elif name == "RotaryEmbeddingDinoV3" and isinstance(getattr(module, "periods", None), Tensor):
            rope: Any = module
            rope.periods = rope.temperature ** torch.arange(0, 1, 4 / rope.dim, dtype=torch.float64)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _angles(module: Any, arguments: tuple[Tensor, ...], output: Any) -> tuple[Tensor, Tensor]:
    """transformers' own cosines and sines, from its own constants, in double precision."""
    pixels = arguments[0]
    rows, cols = (side // module.config.patch_size for side in pixels.shape[2:])
    y, x = (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1 for n in (rows, cols))
    frequencies = 2 * torch.pi / module.base ** torch.arange(0, 1, 4 / module.head_dim, dtype=torch.float64)
    by_row = (y[:, None] * frequencies).repeat_interleave(cols, dim=0)
    by_col = (x[:, None] * frequencies).repeat(rows, 1)
    angles = torch.cat([by_row, by_col, by_row, by_col], dim=1)
    return angles.cos(), angles.sin()


@torch.no_grad()
def _residuals(model: nn.Module, depth: int, images: Tensor) -> dict[str, Tensor]:
    blocks = _blocks(model, depth)
    found: dict[str, Tensor] = {}

    def before(module: nn.Module, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        found["embedding"] = arguments[0] if arguments else options["hidden_states"]

    def after(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after(f"block {i + 1}")) for i, block in enumerate(blocks)]
    try:
        output = model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {**found, "output": _read(output)}


def _blocks(model: nn.Module, depth: int) -> list[nn.Module]:
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last in ("blocks", "layers", "layer", "resblocks") and len(blocks := list(module.children())) == depth:
            return blocks
    raise NotCompared("its blocks were not found")


def _read(output: Any) -> Tensor:
    """The tensor that is vitrail's output: logits, a projection, or pooled features."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "image_embeds", "pooler_output"):
        if (value := getattr(output, name, None)) is not None:
            return value
    return output.last_hidden_state[:, 0]


def _version(library: str) -> str:
    from importlib.metadata import version

    return version("open_clip_torch" if library == "open_clip" else library)
