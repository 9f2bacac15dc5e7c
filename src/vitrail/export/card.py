"""The model card of an exported folder: what it is, how it was proven, and ten lines that run it."""

import math
from pathlib import Path

from vitrail.config import Preprocess
from vitrail.export.verify import Verification
from vitrail.inference import Classifier
from vitrail.report import printable

_FILTERS = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC"}
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
    hint = "f32" if found.precision == "float32" else "bf16"
    code = "\n".join(
        [
            "import json",
            "import numpy as np",
            "from PIL import Image",
            'photo = Image.open("photo.jpg").convert("RGB")',
            *_resize(classifier.preprocess),
            "pixels = np.asarray(photo).transpose(2, 0, 1)[None].copy()  # 1 x 3 x rows x cols, uint8",
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
            f"From `pixels`, uint8 images of 3 x {rows} x {cols}, any number of them, to `logits` of "
            f"{len(classifier.labels)} classes. Mean and deviation are inside; resizing is not, see preprocess.json.",
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
            "In vitrail: `vitrail predict MODEL photo.jpg --engine THIS_FOLDER`. It resizes as the model was measured; "
            "the resize above, Pillow's, is near that but not equal to it.",
            "",
        ]
    )


def _resize(config: Preprocess) -> list[str]:
    """Pillow's way to the same size."""
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
    return [*lines, crop, f"photo = photo.crop((left, top, left + {cols}, top + {rows}))"]
