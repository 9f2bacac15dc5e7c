"""The model card of an exported folder: what it is, how it was proven, and ten lines that run it."""

import math
from pathlib import Path

from vitrail.config import Preprocess
from vitrail.export.verify import Verification
from vitrail.inference import Classifier
from vitrail.report import printable

_FILTERS = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC"}
_ANY = "rows x cols x 3, of any size and any number of one size,"
_WHOLE = [
    "from PIL import Image, ImageOps",
    'photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
    "pixels = np.array(photo)[None]  # 1 x rows x cols x 3, uint8",
]
_NEAR = "It resizes as the model was measured; the resize above, Pillow's, is near that but not equal to it."
_RUN = {
    "openvino": """import openvino
hint = {{"INFERENCE_PRECISION_HINT": "{hint}"}}
run = openvino.Core().compile_model("model.xml", "CPU", hint)
logits = run([pixels])[0]""",
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
logits = session.run(None, {{"pixels": pixels}})[0]""",
    "aoti": """import torch
run = torch._inductor.aoti_load_package("model.pt2")  # native code: only where it was built
logits = run(torch.from_numpy(pixels)).float().numpy()""",
}


def export_card(classifier: Classifier, found: Verification, source: str) -> str:
    """Markdown, with front matter."""
    rows, cols = classifier.preprocess.size
    inside = found.resize == "inside"
    hint = "f32" if found.precision == "float32" else "bf16"
    code = "\n".join(
        [
            "import json",
            "import numpy as np",
            *(_WHOLE if inside else _fitted(classifier.preprocess)),
            _RUN[found.target].format(hint=hint),
            'print(json.load(open("labels.json"))["names"][int(logits.argmax())])',
        ]
    )
    record = classifier.record
    licence = [f"license: {record['licence']}"] if record.get("licence") else []
    return "\n".join(
        [
            "---",
            f"library_name: {found.target}",
            "pipeline_tag: image-classification",
            *licence,
            "tags: [vitrail, vision-transformer]",
            "---",
            "",
            f"# {printable(Path(source).name)} for {found.target}, {found.precision}",
            "",
            f"From `pixels`, uint8 images of {_ANY if inside else f'3 x {rows} x {cols}, any number of them,'} to "
            f"`logits` of {len(classifier.labels)} classes. Mean and deviation are inside; "
            f"{f'so is the resize to {rows} x {cols}' if inside else 'resizing is not'}, see preprocess.json.",
            "",
            "## How close it is to its source",
            "",
            found.markdown(),
            "## How to run it",
            "",
            "```python",
            code,
            "```",
            "",
            "In vitrail: `vitrail predict MODEL photo.jpg --engine THIS_FOLDER`. "
            + ("The graph resizes as the model was measured." if inside else _NEAR),
            "",
        ]
    )


def _fitted(config: Preprocess) -> list[str]:
    """A photo brought to the model's size in Pillow's way."""
    rows, cols = config.size
    cover_rows, cover_cols = math.floor(rows / config.crop), math.floor(cols / config.crop)
    how = f"Image.Resampling.{_FILTERS.get(config.interpolation, 'BICUBIC')}"
    lines = [f"photo = photo.resize(({cover_cols}, {cover_rows}), {how})"]
    if config.resize == "shortest":
        lines = [
            f"scale = max({cover_rows} / photo.height, {cover_cols} / photo.width)",
            f"photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), {how})",
        ]
    crop = f"left, top = (photo.width - {cols}) // 2, (photo.height - {rows}) // 2"
    return [
        "from PIL import Image",
        'photo = Image.open("photo.jpg").convert("RGB")',
        *lines,
        crop,
        f"photo = photo.crop((left, top, left + {cols}, top + {rows}))",
        "pixels = np.asarray(photo).transpose(2, 0, 1)[None].copy()  # 1 x 3 x rows x cols, uint8",
    ]
