"""Where weights lie: a file, a model folder, a run folder; or a name of weights/catalog.py or a Hugging Face id, which
are downloaded once."""

import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from vitrail.errors import WeightsError, did_you_mean
from vitrail.weights.catalog import CATALOG, Row
from vitrail.weights.files import INDEX_FILE, MODEL_FILE, followed, weights_of

_PICKLED = (".pt", ".pth", ".bin", ".pkl", ".ckpt", ".tar")
_WANTED = [
    "config.json",
    MODEL_FILE,
    INDEX_FILE,
    "preprocessor_config.json",
    "processor_config.json",
    "open_clip_config.json",
    "README.md",
    "vitrail.json",
    "passengers.safetensors",
]
_OPEN_CLIP_FILE = "open_clip_model.safetensors"
_ACCEPTED = "give a file, a folder, a Hugging Face id or a name of `vitrail models --weights`"


def locate(source: str | Path) -> Path:
    """The model folder or weights file that `source` means. Raises WeightsError in one sentence otherwise."""
    path, text = Path(source), str(source)
    if not text:
        raise WeightsError(f"the name of the weights is empty; {_ACCEPTED}")
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _accepted(path)
    if path.exists():
        raise WeightsError(f"{text} is neither a file nor a folder but a device or a pipe; {_ACCEPTED}")
    if text in CATALOG:
        return _published(CATALOG[text])
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) and path.suffix not in (".npz", ".safetensors", *_PICKLED):
        return _of_hub(text)
    beside = sorted(p.name for p in path.parent.iterdir() if p.name[0] != ".") if path.parent.is_dir() else []
    near = did_you_mean(path.name, [*beside, *CATALOG] if path.name == text else beside)
    raise WeightsError(f"no weights at {text!r}{near or f'; {_ACCEPTED}'}")


def _published(row: Row) -> Path:
    if row.hub is not None:
        return _of_hub(row.hub)
    if row.url is not None:
        return _downloaded(row.url)
    raise WeightsError(
        f"{row.name} is published as a pickle, which can run code when it is read; if you trust it, convert it once "
        f'with python -c "{row.get}" and give {row.name}.safetensors'
    )


def _of_hub(name: str) -> Path:
    folder = _download(name, _WANTED)
    if not (folder / MODEL_FILE).is_file():
        if (folder / "open_clip_config.json").is_file():  # where there are both, they are the same weights
            file = _download(name, [_OPEN_CLIP_FILE]) / _OPEN_CLIP_FILE
            if file.is_file():
                return followed(file)
        if (folder / INDEX_FILE).is_file():
            folder = _download(name, ["model-*-of-*.safetensors"])
    return _in_folder(folder)


def _downloaded(url: str) -> Path:
    """A file of the catalog, kept below ~/.cache/vitrail (XDG_CACHE_HOME)."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrail"
    path = cache / url.rpartition("/")[2]
    if path.is_file():
        return path
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if HF_HUB_OFFLINE or not url.startswith("https://"):
            raise OSError("downloads are off")
        cache.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as answer, partial.open("wb") as file:
            expected, found = answer.headers.get("Content-Length"), 0
            while block := answer.read(2**20):
                found += file.write(block)
        if expected is not None and found != int(expected):
            raise OSError(f"it broke off after {found:,} of {int(expected):,} bytes")
        os.replace(partial, path)
    except (OSError, urllib.error.URLError, ValueError) as error:
        partial.unlink(missing_ok=True)
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"{url} can't be downloaded ({reason}); put the file here yourself and name it") from error
    return path


def _in_folder(folder: Path) -> Path:
    for candidate in (folder / "model", folder):  # a run folder keeps its model folder in model/
        if weights_of(candidate) is not None:
            return candidate if candidate is folder else followed(candidate)
    weights = sorted(p for p in folder.iterdir() if p.suffix in (".npz", ".safetensors"))
    if len(weights) == 1:
        return followed(weights[0])
    if weights:
        raise WeightsError(
            f"{folder} holds {len(weights)} weights files; name one: {', '.join(p.name for p in weights)}"
        )
    for path in sorted(folder.iterdir()):
        _accepted(path)
    raise WeightsError(f"{folder} holds no model.safetensors, so it is neither a model folder nor a finished run")


def _accepted(path: Path) -> Path:
    if path.suffix in _PICKLED:
        target = path.with_suffix(".safetensors").name
        raise WeightsError(
            f"{path.name} is a pickle, which can run code when it is read, so only .safetensors and .npz are; if you "
            'trust it, convert it once: python -c "import torch, safetensors.torch as s; s.save_file({k: v.contiguous()'
            f" for k, v in torch.load('{path.name}', weights_only=True).items()}}, '{target}')\""
        )
    return path


def _download(name: str, wanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except GatedRepoError as error:
        raise WeightsError(
            f"{name} asks you to accept its licence on its page first, then to run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"there is no file or folder {name!r} here and no model of that id on Hugging Face{_other_ids(name)}"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"there is no file or folder {name!r} here, and it can't be downloaded as a Hugging Face id: no connection "
            f"(or HF_HUB_OFFLINE is set) and no copy in the cache{_other_ids(name)}"
        ) from error


def _other_ids(name: str) -> str:
    """Corrections of a Hugging Face id that the catalog does not know."""
    ids = [row.hub for row in CATALOG.values() if row.hub is not None]
    return "" if name in ids else did_you_mean(name, ids)
