"""A DataReport as one HTML page with its pictures: no scripts, no other files, every name escaped."""

from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vitrail.data.sources import Dataset
from vitrail.errors import DataError, ImageError
from vitrail.evaluate.findings import CopyGroup, DataReport, LookAlike, Member
from vitrail.evaluate.page import thumbnail
from vitrail.report import percent, printable

GROUPS = 40  # groups and pairs of a kind that are shown as pictures
DOUBTS = 60  # labels in doubt that are
ABREAST = 4  # pictures of one group
SIDE = 200  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class Shown:
    """One picture of the page, with what is said about it."""

    image: Member
    picture: str | None  # a data: address; None where it cannot be made
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """Pictures that belong together."""

    title: str
    shown: list[Shown]
    more: int = 0


def render_findings(report: DataReport, data: Dataset, doubts: bool = False) -> str:
    """The report as one self-contained page; `doubts`: images whose labels are in doubt are on the list.

    Raises DataError where `data` is not what the report is about.
    """
    if data.fingerprint != report.fingerprint:
        raise DataError(f"the pictures must come from the data of the report ({report.name}), found other images")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percent, printable=printable)
    here = files("vitrail.evaluate")
    return environment.from_string(here.joinpath("findings.html.j2").read_text(encoding="utf-8")).render(
        style=Markup(here.joinpath("style.css").read_text(encoding="utf-8")),
        report=report,
        sections=[
            ("Shown in several splits", LEAKS, len(report.leaks), _groups(report.leaks, data)),
            ("One picture, two labels", CONFLICTS, len(report.conflicts), _groups(report.conflicts, data)),
            ("Copies within a split", REPEATS, len(report.repeats), _groups(report.repeats, data)),
            ("Look-alikes", LOOK_ALIKES, len(report.look_alikes), _pairs(report.look_alikes, data)),
        ],
        doubts=[(d, _picture(d.image, data)) for d in report.doubts[:DOUBTS]],
        odd=[(o, _picture(o.image, data)) for o in report.odd_sizes[:GROUPS]],
        listed=len({entry.id for entry in report.quarantine(doubts) if entry.active}),
    )


LEAKS = (
    "The same picture lies in two splits, so a model is measured on what it was trained on. The list leaves the "
    "training copy out and keeps the held-out one."
)
CONFLICTS = "One of the labels is wrong. The list leaves all copies out until you have decided."
REPEATS = "A repeated picture weighs more than others. The list keeps the first copy."
LOOK_ALIKES = (
    "The model can hardly tell these apart: often two photos of one scene, or a mirrored copy. Those across splits "
    "come first. None of them is on the list."
)


def _groups(groups: list[CopyGroup], data: Dataset) -> list[Row]:
    rows = []
    for group in groups[:GROUPS]:
        members = sorted(group.members, key=lambda m: m != group.kept)
        shown = [Shown(m, _picture(m, data), "kept" if m == group.kept else "left out") for m in members[:ABREAST]]
        rows.append(Row(f"group {group.number}, {group.tie}", shown, len(members) - len(shown)))
    return rows


def _pairs(pairs: tuple[LookAlike, ...], data: Dataset) -> list[Row]:
    return [
        Row(f"similarity {pair.similarity:.3f}", [Shown(m, _picture(m, data)) for m in (pair.first, pair.second)])
        for pair in pairs[:GROUPS]
    ]


def _picture(image: Member, data: Dataset) -> str | None:
    """A data: address of the image's thumbnail; None where it has become unreadable since it was checked."""
    try:
        return thumbnail(data.whole.read(image.index).data, SIDE)
    except ImageError:
        return None
