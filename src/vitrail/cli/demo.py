"""`vitrail demo`: the whole path on handwritten digits, from nothing to a measured model, in under two minutes."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from vitrail.cli.values import Whole

if TYPE_CHECKING:
    from vitrail.data.sources import Source
    from vitrail.report import Report
    from vitrail.types import Pixels, Prediction

SHADES = " ░▒▓█"
PLAIN_SHADES = " .:+#"  # for terminals that show no others
SHOWN = 4  # digits side by side


def demo(
    *,
    out: Annotated[str, Parameter(metavar="RUN", help="The run folder.")] = "demo",
    seed: Annotated[Whole, Parameter(help="Seed of everything random.")] = 0,
) -> None:
    """Train a small model on handwritten digits, measure it, and use it."""
    from vitrail.cli.progress import reporting
    from vitrail.data.sources import open_dataset
    from vitrail.inference import load
    from vitrail.report import Report
    from vitrail.train import train

    folder = Path(out)
    if _made_before(folder, seed):
        print(f"{folder} holds this run already: here it is again (for a new one: --out or --seed).")
        report = Report.load(folder / "evaluation.json")
    else:
        with reporting() as notify:
            made = train("digits", out=folder, seed=seed, notify=notify).report
        assert isinstance(made, Report)  # each digit is of one class
        report = made
    held_out = open_dataset("digits").split(report.data.split)
    chosen = choose(report, held_out)
    predictions = load(folder).predict([held_out.read(i).data for i in chosen], top=2)
    print(f"\n{report.verdict()}\n\n{len(chosen)} of the digits that it had not seen:\n")
    print(gallery(held_out, chosen, predictions))
    print(f"""
The report      {folder / "report.html"}   (open it in a browser)
The model       {folder / "model"}
Every number    {folder / "evaluation.json"}

Now your own photos, one folder of images for each class:
    vitrail train PHOTOS --out runs/photos
    vitrail predict runs/photos PHOTO.jpg""")


def _made_before(folder: Path, seed: int) -> bool:
    try:
        run = json.loads((folder / "run.json").read_bytes())
        return bool(run["finished"] and run["data"]["name"] == "digits" and run["seed"] == seed)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def choose(report: "Report", source: "Source") -> list[int]:
    """Places of the digits to show: different ones, and the worst mistake last."""
    worst = [m.index for m in report.mistakes if m.index is not None][:1]
    seen = {int(source.labels[i]) for i in worst}
    others: list[int] = []
    for i in range(len(source)):
        label = int(source.labels[i])
        if label not in seen and i not in {m.index for m in report.mistakes}:
            seen.add(label)
            others.append(i)
    return others[: SHOWN - len(worst)] + worst


def gallery(source: "Source", places: Sequence[int], predictions: "Sequence[Prediction]") -> str:
    """The digits side by side, each above what the model says it is."""
    from vitrail.data.decode import decode
    from vitrail.report import percent

    shades = SHADES if _can_show(SHADES) else PLAIN_SHADES
    columns = []
    for place, found in zip(places, predictions, strict=True):
        label = source.classes[int(source.labels[place])]
        says = f"{found.labels[0]}, {percent(found.probabilities[0])} sure"
        truth = "right" if found.labels[0] == label else f"wrong: it is a {label}"
        columns.append([*draw(decode(source.read(place).data), shades), "", says, truth])
    width = 2 + max(len(line) for column in columns for line in column)
    return "\n".join("".join(cell.ljust(width) for cell in line).rstrip() for line in zip(*columns, strict=True))


def draw(pixels: "Pixels", shades: str) -> list[str]:
    """One line of text for each row of pixels, the brightest as the last of `shades`; two characters are one pixel."""
    level = pixels.float().mean(dim=0).div(255).mul(len(shades) - 1).round().int()
    return ["".join(2 * shades[v] for v in row) for row in level.tolist()]


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
