"""Helpers for tests against transformers: networks with random-normal weights, saved as that library saves them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from vitrail.models.trace import trace
from vitrail.weights.load import FORMATS, Loaded, load_weights
from vitrail.weights.rename import write_tensors

MODEL = "model.safetensors"
Read = Callable[[Any], torch.Tensor]  # from the output of a network of transformers


def randomise(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """All parameters drawn from a normal distribution, since a library's own initial values hide swapped layers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.2, generator=generator)
    return model.eval()


def save(model: PreTrainedModel, folder: Path, in_memory: bool = False, prefix: str = "") -> Path:
    """The randomised model's folder; with the names that its modules have in memory, or behind a prefix, if asked."""
    randomise(model).save_pretrained(folder)
    if in_memory:
        save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, folder / MODEL)
    if prefix:
        save_file({prefix + key: tensor for key, tensor in load_file(folder / MODEL).items()}, folder / MODEL)
    return folder


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest one; the outputs must not be so small that any difference is."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == torch.float64
    assert theirs.std() > 0.05
    return (ours - theirs).abs().max().item()


@torch.no_grad()
def assert_equal(loaded: Loaded, model: PreTrainedModel, read: Read, size: tuple[int, int], **options: Any) -> None:
    """The same logits or features, and the same tokens, from a network of transformers at 1e-9 in float64."""
    ours, x = loaded.model.double(), images(2, loaded.model.config.channels, *size)
    theirs = model.double()(x, output_hidden_states=True, **options)
    logits, record = trace(ours, x)
    assert difference(ours(x), read(theirs)) < 1e-9
    assert difference(logits, read(theirs)) < 1e-9
    after = [record.embedded, *(block.after_mlp for block in record.blocks)]
    assert len(theirs.hidden_states) == len(after)
    for mine, hidden in zip(after[:-1], theirs.hidden_states[:-1], strict=True):
        assert difference(mine, hidden) < 1e-9
    if hasattr(theirs, "last_hidden_state"):
        last = after[-1] if hasattr(model, "pre_layrnorm") or hasattr(model, "vision_model") else record.tokens
        assert difference(last, theirs.last_hidden_state) < 1e-9
    model.float()


def write_back(source: Path, folder: Path) -> Loaded:
    """A folder loaded and written again in its own format, with what its library wants beside the tensors."""
    loaded = load_weights(source)
    form, config = FORMATS[loaded.form], loaded.model.config
    folder.mkdir()
    tensors = write_tensors(loaded.model.state_dict(), form.rules(config)) | dict(loaded.passengers)
    save_file({key: tensor.detach().clone() for key, tensor in tensors.items()}, folder / MODEL, {"format": "pt"})
    assert form.companions is not None and form.describe is not None
    for name, table in form.companions(config, loaded.preprocess, loaded.labels).items():
        (folder / name).write_text(json.dumps(table))
    assert form.describe(config, loaded.preprocess) is not None
    return loaded


def assert_survives(model: PreTrainedModel, source: Path, back: Path, read: Read, size: tuple[int, int]) -> None:
    """Written back, the file is the same bit for bit, and transformers computes the same bits from the new folder."""
    loaded = write_back(source, back)
    first, second = load_file(source / MODEL), load_file(back / MODEL)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first)
    again = type(model).from_pretrained(back).eval()
    x = images(2, loaded.model.config.channels, *size).float()
    with torch.no_grad():
        assert torch.equal(read(again(x)), read(model.float()(x)))
    reloaded = load_weights(back)
    assert (reloaded.model.config, reloaded.form) == (loaded.model.config, loaded.form)
    assert reloaded.labels == loaded.labels
    # the library keeps the resized side in pixels, we the share that is cropped: the same pixels, not the same float
    sides = [[math.floor(side / p.crop) for side in p.size] for p in (reloaded.preprocess, loaded.preprocess)]
    assert sides[0] == sides[1]
    assert reloaded.preprocess.model_copy(update={"crop": loaded.preprocess.crop}) == loaded.preprocess


def edit(folder: Path, name: str = "config.json", **fields: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    table = json.loads((folder / name).read_text()) | fields
    (folder / name).write_text(json.dumps({key: value for key, value in table.items() if value is not None}))
