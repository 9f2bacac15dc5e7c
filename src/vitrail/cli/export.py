"""`vitrail export MODEL OUT --to TARGET`: a model for another runtime, proven in a fresh process."""

import sys
from typing import Annotated

from cyclopts import Parameter

from vitrail.cli.values import File, Name, Whole


def export(
    source: Annotated[
        str, Parameter(name="MODEL", help="A run folder, a model folder, a weights file, or a Hugging Face id.")
    ],
    out: Annotated[str, Parameter(name=["OUT", "--out"], help="The new folder.")],
    /,
    *,
    to: Annotated[Name, Parameter(help="onnx, openvino, aoti, timm or transformers.")],
    model: Annotated[Name | None, Parameter(help="Architecture of a bare weights file; see `vitrail models`.")] = None,
    precision: Annotated[
        Name | None,
        Parameter(help="float32, bfloat16 or int8, as the target can; openvino and aoti: bfloat16 unless told."),
    ] = None,
    calibrate: Annotated[
        File | None,
        Parameter(help="A folder of photos that choose the scales of openvino's int8; labels are not read."),
    ] = None,
    check: Annotated[
        File | None, Parameter(help="Images to compare on, best 256 or more and labelled; else those of --calibrate.")
    ] = None,
    resize_inside: Annotated[
        bool, Parameter(help="Resize and crop in the graph (onnx, openvino): it takes decoded images of any size.")
    ] = False,
    merge: Annotated[Whole, Parameter(help="Tokens that merge into others in each block: faster, not exact.")] = 0,
) -> None:
    """Write a model as a graph from uint8 pixels to logits, for ONNX Runtime, OpenVINO or AOTInductor.

    The result is run in a fresh process beside the model, and is only kept where it computes the same within its gate.
    """
    from vitrail.errors import ConfigError
    from vitrail.export.write import CONVERTED
    from vitrail.export.write import export as run

    if to in CONVERTED:
        from vitrail.evaluate.parity import convert

        given = {"--precision": precision, "--calibrate": calibrate, "--check": check, "--merge": merge or None}
        given["--resize-inside"] = resize_inside or None
        if odd := [name for name, value in given.items() if value is not None]:
            raise ConfigError(f"{', '.join(odd)} does not go with --to {to}, which keeps float32 weights")
        sys.stdout.write(convert(source, out, to, model=model).markdown())
        return
    found = run(
        source,
        out,
        to,
        model=model,
        precision=precision,
        calibrate=calibrate,
        check=check,
        merge=merge,
        resize_inside=resize_inside,
    )
    sys.stdout.write(found.markdown())
