"""What a check of a data set found, worst first: for people, for programs, and as a list of images to leave out."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from vitrail.config import Config, Probability
from vitrail.data.check import Kind
from vitrail.data.quarantine import Entry, list_text
from vitrail.report import Count, printable, table

SHOWN = 5  # findings of a kind in the terminal; the page and the JSON have more
WIDTH = 80
TIES: dict[Kind, str] = {"bytes": "same file", "pixels": "same pixels", "near": "same picture"}
HELD_OUT = ("test", "val", "train")  # of an image in several splits, the copy in the first of these is kept


class Member(Config):
    """One image of the data set. `index` is its place in it, `id` its name as the data have it, fit to print or not."""

    index: Count
    id: str
    split: str
    label: str

    def __str__(self) -> str:
        """The name, and in brackets what its folders do not tell."""
        folders = self.id.split("/")[:-1]
        more = ", ".join(fact for fact in (self.split, self.label) if fact not in folders)
        return printable(f"{self.id} [{more}]" if more else self.id)


class Unread(Config):
    """An image that cannot be decoded, and why."""

    image: Member
    reason: str


class CopyGroup(Config):
    """Images that show one picture: at least two. `similarity`: the lowest correlation that joins them."""

    number: Annotated[int, Field(ge=1)]
    kind: Literal["bytes", "pixels", "near"]
    similarity: float
    members: tuple[Member, ...]

    @property
    def leak(self) -> bool:
        """Whether the picture is trained on and measured on."""
        return len({m.split for m in self.members}) > 1

    @property
    def conflict(self) -> bool:
        """Whether the picture has two labels, of which one is wrong."""
        return len({m.label for m in self.members}) > 1

    @property
    def kept(self) -> Member | None:
        """The copy that stays: the first of the held-out ones where there are any. None where labels disagree."""
        return None if self.conflict else min(self.members, key=lambda m: (HELD_OUT.index(m.split), m.index))

    @property
    def tie(self) -> str:
        return TIES[self.kind] + (f", {self.similarity:.3f}" if self.kind == "near" else "")


class LookAlike(Config):
    """Two images that the model finds nearly equal; `similarity` is the cosine of their centred features."""

    first: Member
    second: Member
    similarity: float


class LabelDoubt(Config):
    """An image whose label a classifier that never saw it doubts."""

    image: Member
    suggested: str
    probability: Probability  # of its label
    suggested_probability: Probability


class OddSize(Config):
    """An image of an unusual size, and in what way."""

    image: Member
    reason: str


class ClassCount(Config):
    """Images of one class in each split."""

    name: str
    images: dict[str, Count]


class DataReport(Config):
    """Everything a check found. Lists are in the order of the data set but `doubts` and `look_alikes`: worst first."""

    version: Literal[1] = 1
    name: str
    fingerprint: str
    images: Count
    splits: dict[str, Count]
    declared: bool  # the data came with splits
    classes: tuple[ClassCount, ...]
    model: str | None = None  # whose features were used
    unreadable: tuple[Unread, ...] = ()
    copies: tuple[CopyGroup, ...] = ()
    look_alikes: tuple[LookAlike, ...] = ()
    doubts: tuple[LabelDoubt, ...] = ()
    odd_sizes: tuple[OddSize, ...] = ()
    imbalance: str | None = None
    not_done: tuple[str, ...] = ()  # sentences

    @property
    def leaks(self) -> list[CopyGroup]:
        """Copies on both sides of a split: the score on them is not a score on new images."""
        return [group for group in self.copies if group.leak]

    @property
    def conflicts(self) -> list[CopyGroup]:
        """One picture under two labels, within one split."""
        return [group for group in self.copies if group.conflict and not group.leak]

    @property
    def repeats(self) -> list[CopyGroup]:
        """Copies within one split, with one label."""
        return [group for group in self.copies if not group.conflict and not group.leak]

    def json(self) -> str:  # type: ignore[override]  # as Report has it
        """The report as JSON, one line a finding."""
        lines = []
        for name, value in self.model_dump(mode="json").items():
            if isinstance(value, list) and value:
                text = "[\n" + ",\n".join(f"    {json.dumps(v)}" for v in value) + "\n  ]"
            else:
                text = json.dumps(value)
            lines.append(f"  {json.dumps(name)}: {text}")
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def verdict(self) -> str:
        """One sentence in plain words, the gravest first."""
        if self.leaks:
            held = {m.id for g in self.leaks for m in g.members if m.split != "train"}
            plural = "images of the held-out splits are" if len(held) > 1 else "image of the held-out splits is"
            return (
                f"Do not trust a score on these data yet: {len(held):,} {plural} shown in another split too, "
                "so a model is asked what it has already seen."
            )
        found = len(self.unreadable) + len(self.copies)
        if found or self.doubts:
            return "The splits share no picture that was found; what else was found is listed below."
        return f"Each of the {self.images:,} images can be read, and no picture was found twice."

    def markdown(self) -> str:
        """A summary that fits a terminal of 80 columns, as far as the names of the images do."""
        counts = ", ".join(f"{n:,} {split}" for split, n in self.splits.items())
        made = "" if self.declared else "; splits as `vitrail train` makes them"
        head = f"{self.name}: {self.images:,} images in {len(self.classes):,} classes ({counts}{made})."
        parts = [textwrap.fill(head, WIDTH), textwrap.fill(self.verdict(), WIDTH)]
        parts.append(table(["found", "number", ""], self._summary()))
        parts += self._groups("Shown in several splits", self.leaks)
        parts += _listing("Unreadable", [f"{u.image}: {u.reason}" for u in self.unreadable])
        parts += self._groups("One picture, two labels", self.conflicts)
        doubts = [f"{d.image}\n    {_chances(d)}" for d in self.doubts]
        parts += _listing("Labels in doubt, the most doubtful first", doubts)
        parts += self._groups("Copies within a split", self.repeats)
        alike = [f"{p.first}\n    {p.second} ({p.similarity:.3f})" for p in self.look_alikes]
        parts += _listing("Look-alikes", alike)
        parts += _listing("Odd sizes", [f"{o.image}: {o.reason}" for o in self.odd_sizes])
        parts += [] if self.imbalance is None else [textwrap.fill(f"Uneven classes: {self.imbalance}.", WIDTH)]
        parts += [textwrap.fill(f"Not done: {text}", WIDTH) for text in self.not_done]
        return "\n\n".join(parts) + "\n"

    def quarantine(self, doubts: bool = False) -> list[Entry]:
        """The images to leave out: unreadable ones, every copy of a picture but the one to keep, and all copies where
        their labels disagree. Doubtful labels are on the list where `doubts` is set, and suggested otherwise.

        An image stays off the list where its name is also that of the copy to keep: leaving it out would lose both.
        """
        entries = [Entry(u.image.id, u.reason) for u in self.unreadable]
        for group in self.copies:
            kept = group.kept
            for member in group.members:
                if kept is None:
                    others = ", ".join(sorted({m.label for m in group.members} - {member.label}))
                    entries.append(Entry(member.id, f"also labelled {others}: {group.tie}", group.number))
                elif member.id != kept.id:
                    entries.append(Entry(member.id, f"copy of {kept.id}: {group.tie}", group.number))
        listed = {entry.id for entry in entries}
        doubtful = [d for d in self.doubts if d.image.id not in listed]
        return [*entries, *(Entry(d.image.id, f"label in doubt: {_chances(d)}", active=doubts) for d in doubtful)]

    def quarantine_text(self, doubts: bool = False) -> str:
        """The list as a file: see data/quarantine.py."""
        title = (
            f"Images of {self.name} that training leaves out with --set quarantine=THIS_FILE.\n"
            "Look at them in report.html, then edit: delete a line to keep its image, remove a # to leave one out."
        )
        return list_text(self.quarantine(doubts), title)

    def _summary(self) -> list[list[str]]:
        rows = [
            ("pictures shown in several splits", len(self.leaks), "a score on them is no score"),
            ("unreadable images", len(self.unreadable), ""),
            ("pictures with two labels", len(self.conflicts), "one of them is wrong"),
            ("labels in doubt", len(self.doubts), "candidates: look at them"),
            ("pictures repeated within a split", len(self.repeats), "count more than others"),
            ("look-alikes, by the model", len(self.look_alikes), "perhaps one scene twice"),
            ("odd sizes", len(self.odd_sizes), ""),
        ]
        skipped = {"labels in doubt", "look-alikes, by the model"} if self.model is None else set()
        return [[what, "–" if what in skipped else f"{n:,}", note if n else ""] for what, n, note in rows]

    def _groups(self, title: str, groups: Sequence[CopyGroup]) -> list[str]:
        return _listing(title, [_group(group) for group in groups])


def _group(group: CopyGroup) -> str:
    """The members of a group, the one to keep first, one a line; at most four."""
    members = sorted(group.members, key=lambda m: m != group.kept)
    more = [f"    and {len(members) - 4} more"] if len(members) > 4 else []
    first, *others = (str(m) for m in members[:4])
    return "\n".join([f"{first} ({group.tie})", *(f"    {other}" for other in others), *more])


def _chances(doubt: LabelDoubt) -> str:
    return f"{doubt.suggested} {doubt.suggested_probability:.0%} likely, {doubt.image.label} {doubt.probability:.0%}"


def _listing(title: str, rows: Iterable[str]) -> list[str]:
    rows = list(rows)
    if not rows:
        return []
    more = [f"- and {len(rows) - SHOWN:,} more"] if len(rows) > SHOWN else []
    return ["\n".join([f"{title} ({len(rows):,})", *(f"- {row}" for row in rows[:SHOWN]), *more])]
