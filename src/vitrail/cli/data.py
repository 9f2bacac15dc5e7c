"""`vitrail data check DATA`: what is wrong with a data set, before a model learns it."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vitrail.cli.output import check as check_places
from vitrail.cli.output import write
from vitrail.cli.values import File

PAGE, TABLE, LIST = "report.html", "check.json", "quarantine.jsonl"


def data(
    action: Annotated[Literal["check"], Parameter(name="ACTION", help="What to do with the data.")],
    source: Annotated[
        str, Parameter(name="DATA", help="A folder of class folders, a CSV, JSONL or Parquet manifest, or `digits`.")
    ],
    /,
    *,
    model: Annotated[
        str | None,
        Parameter(
            metavar="SOURCE",
            help="Weights to look for wrong labels and look-alikes with: a run or model folder, a Hugging Face id.",
        ),
    ] = None,
    out: Annotated[
        str | None, Parameter(metavar="DIR", help="Write the page with pictures, the JSON and the list to this folder.")
    ] = None,
    quarantine_labels: Annotated[bool, Parameter(help="Put images whose labels are in doubt on the list too.")] = False,
    json: Annotated[File | None, Parameter(help="Write the findings as JSON to this file; - for stdout.")] = None,
) -> None:
    """Check a data set: unreadable images, copies, leaks between splits, odd sizes, uneven classes, wrong labels.

    Nothing is changed. `vitrail train DATA --set quarantine=DIR/quarantine.jsonl` leaves out what the list names.
    """
    from vitrail.cli.progress import counting
    from vitrail.data.sources import open_dataset
    from vitrail.errors import ConfigError, StorageError
    from vitrail.evaluate.audit import audit
    from vitrail.evaluate.findings_page import render_findings

    check_places({"--json": json})
    if quarantine_labels and (out is None or model is None):
        raise ConfigError("--quarantine-labels puts labels in doubt on the list: give --out and --model too")
    folder = None if out is None else Path(out)
    if folder is not None and (folder / LIST).exists():
        raise StorageError(f"{folder / LIST} exists and may have been edited: choose another --out, or remove it")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise StorageError(f"cannot write into {folder}: it is a file; choose another --out")
    images = open_dataset(source)
    with counting("check") as notify:
        report = audit(images, model, notify=lambda what, done, total: notify(done, total))
    if json != "-":
        sys.stdout.write(report.markdown())
    if json is not None:
        write(json, report.json())
    if folder is None:
        if json != "-":
            print("\nPictures and a list for training: add --out DIR.")
        return
    write(str(folder / PAGE), render_findings(report, images, quarantine_labels))
    write(str(folder / TABLE), report.json())
    write(str(folder / LIST), report.quarantine_text(quarantine_labels))
    if json != "-":
        listed = len({entry.id for entry in report.quarantine(quarantine_labels) if entry.active})
        print(f"\nlook     {folder / PAGE}\nedit     {folder / LIST} ({listed:,} images)")
        print(f"use it   vitrail train {source} --set quarantine={folder / LIST}")
