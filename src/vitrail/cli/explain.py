"""`vitrail explain MODEL IMAGE_OR_FOLDER... --method NAME --out DIR`: maps over photos, each beside its evidence."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from vitrail.cli.table import show
from vitrail.cli.values import Name, Whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vitrail.explain.explanation import Explained, Request
    from vitrail.inference import Classifier

ALL = "all"
Mode = Annotated[
    Literal["heatmap", "reveal"], Parameter(help="Colours over the grey image, or the image itself, dimmed.")
]
OwnScale = Annotated[bool, Parameter(help="Stretch the colours to each map alone: no longer comparable.")]
RandomMaps = Annotated[Whole, Parameter(help="Random maps to compare with; 0 leaves the evidence out.")]
Precision = Annotated[
    Literal["float32", "bfloat16"],
    Parameter(help="Of occlusion, rise and the evidence, which need hundreds of forward passes."),
]


def explain(
    model_source: Annotated[
        str, Parameter(name="MODEL", help="A run folder, a model folder, a weights file, or a Hugging Face id.")
    ],
    photos: Annotated[
        list[str], Parameter(name="IMAGE_OR_FOLDER", help="Image files, and folders to search for images.")
    ],
    /,
    *,
    out: Annotated[str, Parameter(metavar="DIR", help="Folder for the page, the pictures and the numbers.")],
    method: Annotated[
        str, Parameter(metavar="NAME,NAME", help="What to draw, as in rollout,occlusion; all: every one that applies.")
    ] = "rollout,relevance,legrad,grad_cam",
    class_name: Annotated[
        Name | None, Parameter(name="--class", help="Class to explain; by default each image's predicted one.")
    ] = None,
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    layer: Annotated[Whole | None, Parameter(help="Block, from 0, for attention and grad_cam; else the last.")] = None,
    head: Annotated[Whole | None, Parameter(help="Head, from 0, for attention; else the mean of all.")] = None,
    mode: Mode = "heatmap",
    own_scale: OwnScale = False,
    random_maps: RandomMaps = 5,
    precision: Precision = "float32",
) -> None:
    """Show which parts of photos a model's answer rests on, and how far each picture can be believed.

    DIR gets index.html, one PNG a map, and explain.json with every number.
    """
    from vitrail.data.sources import list_images
    from vitrail.errors import ConfigError, ImageError, StorageError
    from vitrail.explain import catalog, explanation, page
    from vitrail.inference import load

    if Path(out).exists() and not Path(out).is_dir():
        raise StorageError(f"cannot write to {out}: it is a file; name a folder")
    if not 0 <= random_maps <= 100:
        raise ConfigError(f"--random-maps should be 0 to 100, found {random_maps}")
    names = method.split(",")
    for name in names:
        if name != ALL:
            catalog.find(name)  # before the model is loaded
    paths = list_images(photos)
    classifier = load(model_source, model=model)
    request = explanation.Request(
        methods=_methods(names, catalog.applying(classifier.model)),
        label=None if class_name is None else explanation.find_class(classifier.labels, class_name),
        layer=layer,
        head=head,
        random=random_maps,
        precision=precision,
    )
    explanation.check(request, classifier)
    found = _explain(classifier, paths, request)
    if not found:
        raise ImageError("no image could be read")
    page.write(Path(out), found, request, model=Path(model_source).name, mode=mode, own=own_scale)
    _show(found, Path(out))


def _methods(names: "Sequence[str]", applying: "Sequence[str]") -> tuple[str, ...]:
    """Those of the methods asked for that apply, the others named on stderr; all of them where none does, which
    `check` then refuses."""
    wanted = tuple(dict.fromkeys(m for name in names for m in (applying if name == ALL else [name])))
    found = tuple(m for m in wanted if m in applying)
    if found and (others := [m for m in wanted if m not in applying]):
        print(f"vitrail: left out, since a ResNet has no attention: {', '.join(others)}", file=sys.stderr)
    return found or wanted


def _explain(classifier: "Classifier", paths: "list[Path]", request: "Request") -> "list[Explained]":
    """The images that can be read, explained; the others are named on stderr."""
    from vitrail.cli.progress import counting
    from vitrail.errors import ImageError
    from vitrail.explain.explanation import explain as explain_one
    from vitrail.explain.explanation import steps
    from vitrail.explain.faithfulness import layers, randomised
    from vitrail.report import printable

    model = classifier.model
    control = randomised(model, layers(model), request.seed) if request.random else None
    found: list[Explained] = []
    each = steps(request, model)
    done = 0
    with counting("explain", each * len(paths), unit="steps") as count:

        def notify(_: str) -> None:
            nonlocal done
            done += 1
            count(done, each * len(paths))

        for place, path in enumerate(paths, 1):
            try:
                found.append(explain_one(classifier, path, request, name=path.name, control=control, notify=notify))
            except ImageError as error:
                print(f"vitrail: {printable(str(path))}: {error.reason}", file=sys.stderr)
            done = place * each
    return found


def _show(found: "list[Explained]", out: Path) -> None:
    from vitrail.explain.evidence import MAIN
    from vitrail.explain.page import MEASURES, VERDICTS, number
    from vitrail.report import percent, printable

    rows, title = [], "evidence"
    for one in found:
        for m in one.maps:
            value = verdict = ""
            if m.evidence is not None:
                name, score = next((n, m.evidence.scores[n]) for n in MAIN if n in m.evidence.scores)
                title = f"{MEASURES[name]} (random)"
                value = f"{number(score.value)} ({number(score.low)} to {number(score.high)})"
                verdict = VERDICTS[score.verdict]
            answer = f"{printable(one.label_name)} {percent(one.probability)}"
            rows.append((printable(one.name), answer, m.method, value, verdict))
    show(("image", "class", "map", title, "verdict"), rows)
    print(f"wrote {printable(str(out / 'index.html'))}")
