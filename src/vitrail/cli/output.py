"""Files that a command writes for the user; `-` is stdout."""

import sys
from pathlib import Path


def write(place: str, text: str) -> None:
    """Write `text` to the file `place`, whole or not at all. Raises StorageError.

    A pipe or a device takes the text as it comes: it can be neither replaced nor written twice.
    """
    from vitrail.errors import StorageError
    from vitrail.report import write_text

    if place == "-":
        sys.stdout.write(text)
        return
    path = Path(place)
    if path.is_dir():
        raise StorageError(f"cannot write {place}: it is a folder; name a file")
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        write_text(path, text)
