"""The list of images to leave out: JSON lines that `vitrail data check` writes, a person edits, and training reads.

    # a line that begins with # is a comment
    {"id": "train/rose/1.jpg", "reason": "truncated JPEG file", "group": null}

Only `id` is needed: the image's name inside the data set, as every report prints it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vitrail.errors import DataError


@dataclass(frozen=True)
class Entry:
    """One image of the list. One that is not `active` is written as a comment: a suggestion for a person."""

    id: str
    reason: str
    group: int | None = None  # of copies, as the report numbers them
    active: bool = True


@dataclass(frozen=True)
class Quarantine:
    """A list as read. `sha256` is over its ids alone: comments, reasons and order change nothing."""

    path: str
    ids: frozenset[str] = field(repr=False)
    sha256: str


def read_quarantine(path: str | Path) -> Quarantine:
    """Read a list. Raises DataError, naming the line, where it is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"cannot read the quarantine list {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the quarantine list {path} is not a text file in UTF-8") from error
    ids: set[str] = set()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            row = None
        name = row.get("id") if isinstance(row, dict) else None
        if not isinstance(name, str):
            raise DataError(
                f"{path}, line {number}: each line must be a comment (#) or an object such as "
                f'{{"id": "rose/1.jpg"}}, found {text[:60]!r}'
            )
        ids.add(name)
    text = "\n".join(sorted(ids))
    return Quarantine(str(path), frozenset(ids), hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def list_text(entries: Iterable[Entry], title: str) -> str:
    """The entries as the text of a list, with a comment on how to use it."""
    lines = [f"# {line}" for line in title.splitlines()]
    for entry in entries:
        row = json.dumps({"id": entry.id, "reason": entry.reason, "group": entry.group}, ensure_ascii=True)
        lines.append(row if entry.active else f"# {row}")
    return "\n".join(lines) + "\n"
