"""The model card that travels with the weights (README.md of a model folder, front matter as on Hugging Face)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.config import ViTConfig
from vitrail.models.catalog import ModelConfig
from vitrail.models.cost import flops, parameters
from vitrail.types import LabelSet
from vitrail.weights.files import followed

_TORCHVISION = (
    "import json",
    "from safetensors.torch import load_file",
    "from torchvision.models import VisionTransformer",
    "",
    "model = VisionTransformer(**json.load(open('THIS_FOLDER/config.json'))['model_args'])",
    "model.load_state_dict(load_file('THIS_FOLDER/model.safetensors'))",
)
_LONGEST = 2**20  # bytes of a model card


def model_card(config: ModelConfig, labels: LabelSet | None, record: Mapping[str, Any], *, library: str) -> str:
    """Markdown. `record` may hold name, recipe, data, metrics, licence, started_from; what is absent is left out.
    `library` is the one whose layout the folder has, beside vitrail."""
    rows, cols = config.image_size
    several = labels is not None and labels.multilabel
    task = "image-classification" if config.classes else "image-feature-extraction"
    front = ["---", f"library_name: {library}", f"pipeline_tag: {task}"]
    front += [f"license: {record['licence']}"] if record.get("licence") else []
    front += ["tags: [vitrail, vision-transformer]", "---"]
    text = [
        f"# {record.get('name') or 'Vision Transformer'}",
        f"{_architecture(config)} {_purpose(config)}, from an image of {rows} x {cols} pixels; "
        f"{parameters(config):,} parameters, {flops(config) / 1e9:.2f} GFLOPs each.",
        *_section("How it does", _metrics(record.get("metrics"))),
        *_section("What it learned from", _data(record.get("data"), record.get("started_from"), record.get("licence"))),
        *_section("Classes, of which an image may have several" if several else "Classes", _classes(labels)),
        *_section("How to use it", _usage(library)),
        *_section("Recipe", ["```json", json.dumps(record["recipe"], indent=2), "```"] if record.get("recipe") else []),
    ]
    return "\n".join(front) + "\n\n" + "\n\n".join(text) + "\n"


def read_licence(folder: Path) -> str | None:
    """The licence that the front matter of a folder's model card states."""
    card = folder / "README.md"
    if not card.is_file() or card.stat().st_size > _LONGEST:
        return None
    front = re.match(r"---\n(.*?)\n---\n", followed(card).read_text("utf-8", errors="replace"), re.DOTALL)
    stated = dict(re.findall(r"^(license|license_name): *['\"]?([\w.-]+)", front[1], re.MULTILINE)) if front else {}
    return stated.get("license_name") if stated.get("license") in (None, "other") else stated["license"]


def _architecture(config: ModelConfig) -> str:
    if not isinstance(config, ViTConfig):
        return f"A ResNet of {3 * sum(config.layers) + 1} convolutions"
    rows, cols = config.patch_pixels
    kind = "A Vision Transformer" if config.stem is None else "A hybrid Vision Transformer"
    return (
        f"{kind}: {config.depth} blocks, width {config.width}, {config.heads} heads, {config.patches} patches of "
        f"{rows} x {cols} pixels,"
    )


def _purpose(config: ModelConfig) -> str:
    if config.classes:
        return f"for {config.classes:,} classes"
    return "for features"


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "\n".join(lines)] if lines else []


def _metrics(metrics: Any) -> list[str]:
    if not isinstance(metrics, Mapping):
        return []
    return ["| | |", "|---|---|", *(f"| {_plain(str(name))} | {_number(value)} |" for name, value in metrics.items())]


def _data(data: Any, started_from: Any, licence: Any) -> list[str]:
    lines = []
    if isinstance(data, Mapping):
        splits = data.get("splits") or {}
        counts = ", ".join(f"{count:,} {name}" for name, count in splits.items())
        lines.append(
            f"{_code(str(data.get('name', '?')))} ({counts} images), fingerprint `{data.get('fingerprint', '?')}`."
        )
    if started_from:
        place = str(started_from)
        name = Path(place).name if Path(place).is_absolute() else place  # where it lay on a disk is nobody's business
        lines.append(f"It started from {_code(name)} (licence: {licence or 'not stated'}).")
    return lines


def _classes(labels: LabelSet | None) -> list[str]:
    if not labels:
        return []
    return [", ".join(_plain(name) for name in labels.names[:100]) + (", ..." if len(labels) > 100 else "")]


def _usage(library: str) -> list[str]:
    lines = ["```bash", "vitrail predict THIS_FOLDER photo.jpg", "```"]
    if library == "transformers":
        lines += ["", "It also loads in transformers (`pipeline('image-classification', model='THIS_FOLDER')`)."]
    if library == "timm":
        lines += ["", "It also loads in timm (`timm.create_model('local-dir:THIS_FOLDER', pretrained=True)`) and in"]
        lines += ["transformers (`pipeline('image-classification', model='THIS_FOLDER')`)."]
    if library == "torchvision":
        lines += ["", "It also loads in torchvision:", "", "```python", *_TORCHVISION, "```"]
    return lines


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _plain(str(value))


def _code(text: str) -> str:
    """Text as a code span, in which Markdown knows no escapes."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def _plain(text: str) -> str:
    """Text that Markdown will not take for markup, a table border or a tag."""
    for sign in "\\`|<>[]*_":
        text = text.replace(sign, f"\\{sign}" if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return " ".join(text.split())
