"""Files that a command writes for the user; `-` is stdout."""

import sys
from collections.abc import Mapping
from pathlib import Path


def check(places: Mapping[str, str | None]) -> None:
    """Refuse before the work begins what cannot be written; `places` maps options to what was given. A UserError."""
    from vitrail.errors import ConfigError, StorageError

    on_stdout = [option for option, place in places.items() if place == "-"]
    if len(on_stdout) > 1:
        raise ConfigError(f"{' - and '.join(on_stdout)} - would mix on stdout: write one of them to a file")
    for place in filter(None, places.values()):
        if Path(place).is_dir():
            raise StorageError(f"cannot write {place}: it is a folder; name a file")


def check_folder(option: str, place: str) -> None:
    """Refuse before the work begins a place for files that is no folder and cannot become one. A UserError."""
    from vitrail.errors import StorageError

    path = Path(place)
    if path.exists() and not path.is_dir():
        raise StorageError(f"{option} must be a folder, or the name of a new one: {place} is a file")


def write(place: str, text: str) -> None:
    """Write `text` to the file `place`, whole or not at all. Raises StorageError.

    A pipe or a device takes the text as it comes: it can be neither replaced nor written twice.
    """
    from vitrail.report import write_text

    if place == "-":
        sys.stdout.write(text)
        return
    path = Path(place)
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        write_text(path, text)
