"""`vitrail demo`, whole: trained, measured, shown, in under two minutes on two cores, at the promised score."""

import json
import time
from pathlib import Path

import pytest

from vitrail.cli import main
from vitrail.report import Report

Capture = pytest.CaptureFixture[str]


@pytest.mark.slow
@pytest.mark.timeout(900)  # by the clock; what the demo may take is asserted below by the processor's
def test_the_demo(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "demo"
    start = time.process_time()
    assert main(["demo", "--out", str(folder)]) == 0
    seconds = time.process_time() - start  # of all threads: another program's load does not count
    out, err = capsys.readouterr()
    report = Report.load(folder / "evaluation.json")
    assert report.top1 >= 0.985, report.verdict()  # one seed; the mean of three is in docs/benchmarks.md
    assert seconds < 240, "two minutes on two cores"
    assert report.verdict() in out
    assert "4 of the digits that it had not seen:" in out
    assert out.count("% sure") == 4
    for name in ("report.html", "model", "evaluation.json"):
        assert str(folder / name) in out and (folder / name).exists()
    assert "vitrail train PHOTOS" in out
    assert err.startswith("digits: 10 classes, ")

    # measured again from the shell: the same images, the same score
    assert main(["evaluate", str(folder), "digits", "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["images"], again["top1_count"], again["nll"]) == (report.images, report.top1_count, report.nll)

    # a second time it shows the same run at once
    assert main(["demo", "--out", str(folder)]) == 0
    second = capsys.readouterr()
    assert second.out.startswith(f"{folder} holds this run already")
    assert second.out.endswith(out)
    assert second.err == ""
