"""The options, whole. The command line names things and does not configure them: whatever else a run needs is a field
of its recipe (`--set field=value`), so a change of this list is a decision of its own."""

from cyclopts import Argument

from vitrail.cli import build

OPTIONS = {
    "demo": ["--out", "--seed"],
    "data": ["ACTION", "DATA", "--model", "--out", "--quarantine-labels", "--json"],
    "train": ["DATA", "--model", "--weights", "--recipe", "--out", "--seed", "--set", "--accept-changes"],
    "lr-find": ["DATA", "--model", "--weights", "--recipe", "--seed", "--set", "--steps", "--html", "--json"],
    "batch-find": ["DATA", "--model", "--weights", "--recipe", "--seed", "--set", "--json"],
    "probe": ["MODEL", "DATA", "--model", "--method", "--shots", "--seeds", "--json"],
    "evaluate": [
        *("MODEL", "DATA", "--model", "--split", "--protocol", "--threshold", "--quarantine"),
        *("--engine", "--whole-jpegs", "--json", "--html", "--csv"),
    ],
    "report": ["RUN", "--json", "--html"],
    "predict": [
        *("MODEL", "IMAGE_OR_FOLDER", "--model", "--engine", "--top", "--threshold", "--whole-jpegs", "--workers"),
        *("--json", "--csv", "--out", "--part", "--fresh"),
    ],
    "illustrate": ["MODEL", "IMAGE", "--out", "-o", "--model", "--class", "--language"],
    "explain": [
        *("MODEL", "IMAGE_OR_FOLDER", "--out", "--method", "--class", "--model", "--layer", "--head", "--mode"),
        *("--own-scale", "--random-maps", "--precision"),
    ],
    "trace": ["MODEL", "IMAGE", "--out", "-o", "--model", "--parts", "--attention"],
    "figures": ["MODEL", "--out", "--data", "--images", "--model"],
    "convert": ["SOURCE", "OUT", "--out", "--to", "--model", "--image-size", "--allow-loss"],
    "export": [
        *("MODEL", "OUT", "--out", "--to", "--model", "--precision", "--calibrate", "--check", "--resize-inside"),
        "--merge",
    ],
    "benchmark": [
        *("MODEL", "--model", "--engines", "--batch", "--rounds", "--images", "--calibrate", "--merge", "--json"),
    ],
    "inspect": ["SOURCE", "--model", "--image-size", "--json"],
    "models": ["FILTER", "--weights", "--json"],
}


def options(verb: str) -> list[Argument]:
    app = build()
    return list(app[verb].assemble_argument_collection(default_parameter=app.default_parameter))


def test_the_options_are_these_and_no_others() -> None:
    verbs = [name for name in build() if not name.startswith("-")]
    assert {verb: [name for option in options(verb) for name in option.names] for verb in verbs} == OPTIONS


def test_every_verb_and_option_is_explained() -> None:
    app = build()
    for verb in OPTIONS:
        assert app[verb].help, verb
        for option in options(verb):
            assert option.parameter.help, (verb, option.name)
