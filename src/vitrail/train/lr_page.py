"""What a range test found, in words and as one HTML page with its curve."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vitrail.evaluate.charts import rate_chart
from vitrail.report import printable
from vitrail.train.lr_find import LrFinding

SHOWN = 1.5  # times the first loss; above it a diverging curve would flatten all that matters


def summary(found: LrFinding) -> str:
    """The outcome in a few lines."""
    lowest = min((p.smoothed for p in found.points), default=float("nan"))
    end = found.points[-1].lr if found.points else 0.0
    ended = f"the loss diverged at {end:.2g}" if found.stopped == "diverged" else f"the rate reached {end:.2g}"
    what = f"{found.recipe} on {printable(found.data)}, {found.optimizer}, seed {found.seed}"
    start = f"from {printable(found.started_from)}" if found.started_from else "from random weights"
    lines = [f"{what}, {start}: {len(found.points)} steps until {ended}; lowest smoothed loss {lowest:.3f}."]
    if found.suggestion is None:
        lines.append("No suggestion: the loss did not fall at any rate.")
    else:
        lines.append(f"Suggested peak rate {found.suggestion:g} (the recipe has {found.recipe_lr:g}): {found.rule}.")
        lines.append(f"use it   vitrail train ... --set optim.lr={found.suggestion:g}")
    return "\n".join(lines)


def render(found: LrFinding) -> str:
    """The finding as one self-contained HTML page, without scripts."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("vitrail.train").joinpath("lr_page.html.j2").read_text(encoding="utf-8"))
    style = files("vitrail.evaluate").joinpath("style.css").read_text(encoding="utf-8")
    return template.render(
        style=Markup(style),
        found=found,
        chart=_chart(found) if len(found.points) > 1 else None,
        lines=[line for line in summary(found).splitlines() if not line.startswith("use it")],
        name=printable(found.data),
    )


def _chart(found: LrFinding) -> Markup:
    top = SHOWN * found.points[0].loss
    losses, smoothed = ([(p.lr, min(getattr(p, name), top)) for p in found.points] for name in ("loss", "smoothed"))
    return rate_chart(losses, smoothed, mark=found.suggestion, label="loss over learning rate")
