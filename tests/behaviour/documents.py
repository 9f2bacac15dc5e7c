"""Code blocks of a Markdown file, and what each says is to be done with it.

A comment on the line above a block, `<!-- run: slow -->`, says how: `run` (the default for bash and python), `slow`
(takes over ten seconds), `needs shared` (real weights), `output` (what the block before prints, line for line; `output:
other numbers` where they differ from run to run), `not run: REASON` (for a command that cannot run inside a test, with
the reason for the reader), or `text` (a block that is no program).
"""

import re
from dataclasses import dataclass

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!--\s*((?:(?!-->).)*?)\s*-->\s*\Z", re.DOTALL)
RUNNABLE = ("bash", "python")
OTHER_NUMBERS = "output: other numbers"
MARKS = ("run", "run: slow", "run: needs shared", "run: slow, needs shared", "output", OTHER_NUMBERS, "text")


@dataclass(frozen=True)
class Block:
    """One fenced block; `mark` says what a test does with it."""

    language: str
    text: str
    line: int
    mark: str

    @property
    def runs(self) -> bool:
        return self.mark.startswith("run")


def blocks(text: str) -> list[Block]:
    """Every fenced block of a Markdown text. ValueError for one that does not say what is to be done with it."""
    found = []
    for fence in FENCE.finditer(text):
        language, body = fence.groups()
        line = text[: fence.start()].count("\n") + 1
        mark = MARK.search(text[: fence.start()])
        given = mark[1] if mark else None
        if given is None:
            if language not in RUNNABLE:
                raise ValueError(f"line {line}: a block of {language or 'no language'!r} needs a mark")
            given = "run"
        if given not in MARKS and not re.fullmatch(r"not run: \S.{10,}", given, re.DOTALL):
            raise ValueError(f"line {line}: unknown mark {given!r}")
        if given.startswith("run") and language not in RUNNABLE:
            raise ValueError(f"line {line}: {language!r} cannot be run")
        if given.startswith("output") and not any(b.runs for b in found):
            raise ValueError(f"line {line}: the output of nothing")
        found.append(Block(language, body, line, given))
    return found


def plain(line: str, *, numbers: bool) -> str:
    """A line of output without the space and rules that align it; without `numbers`, each that stands alone is 0."""
    text = line if numbers else re.sub(r"(?<![\w/-])\d[\d.,]*", "0", line)
    return re.sub(r"[\s|─]+", " ", text).strip()
