"""The resize inside an exported graph beside Pillow's and vitrail's own, from decoded pixels to 224 x 224.

    python benchmarks/resize_inside.py imagenet_samples --out resize_inside.json

Every side gets an image (rows, cols, 3, uint8) and resizes its shorter side to 248, bicubic, of which the centre is
cropped: the photos of the folder as they are, and one of them enlarged to 4032 x 3024. The graph is the resize alone,
run by OpenVINO (in float32, which it also is before a network in bfloat16), by ONNX Runtime and, with --aoti, by
AOTInductor. Times are processor time of one thread; sides take turns, ratios are of one turn. The pixels are compared
with those of vitrail's `fit` on all photos.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vitrail.config import Preprocess
from vitrail.data.decode import decode
from vitrail.data.preprocess import fit
from vitrail.data.sources import list_images
from vitrail.engines.program import capture_resize
from vitrail.report import machine

SHOWN = Preprocess()


def pillow(pixels: np.ndarray) -> np.ndarray:
    rows, cols = pixels.shape[:2]
    size = (248, int(248 * rows / cols)) if cols <= rows else (int(248 * cols / rows), 248)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)


def openvino_graph(hint: str) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    from vitrail.engines.openvino import GRAPH, resize_first, write

    inner = openvino.opset13.parameter([-1, 3, 224, 224], openvino.Type.u8)
    graph = resize_first(openvino.Model([openvino.opset13.result(inner)], [inner]), SHOWN)
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1}
    with tempfile.TemporaryDirectory() as place:  # what must stay float32 is known of a graph that is read from a file
        write(graph, Path(place))
        run = openvino.Core().compile_model(str(Path(place) / GRAPH), "CPU", options)
    return lambda pixels: run([pixels[None]])[0][0].copy()


def onnx_graph() -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = f"{place}/resize.onnx"
        torch.onnx.export(capture_resize(SHOWN), (), file, dynamo=True, external_data=False, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels[None]})[0][0]


def aoti_graph() -> Callable[[np.ndarray], np.ndarray]:
    import torch._inductor

    place = tempfile.mkdtemp()
    torch._inductor.aoti_compile_and_package(capture_resize(SHOWN), package_path=f"{place}/resize.pt2")
    run = torch._inductor.aoti_load_package(f"{place}/resize.pt2")

    def call(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return run(torch.from_numpy(pixels)[None])[0].numpy()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--aoti", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    paths = list_images([asked.photos])[: asked.count]
    photos = [np.ascontiguousarray(decode(path.read_bytes()).permute(1, 2, 0).numpy()) for path in paths]
    large = np.array(Image.fromarray(photos[0]).resize((4032, 3024), Image.Resampling.BICUBIC))
    sides: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "pillow": pillow,
        "fit": lambda pixels: fit(torch.from_numpy(pixels).permute(2, 0, 1), SHOWN).numpy(),
        "openvino": openvino_graph("f32"),
        "openvino before bfloat16": openvino_graph("bf16"),
        "onnxruntime": onnx_graph(),
    }
    if asked.aoti:
        sides["aoti"] = aoti_graph()
    rows: list[dict[str, object]] = []
    for kind, images, turns in (("photos", photos, 1), ("12 megapixels", [large], 9)):
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        apart: dict[str, list[np.ndarray]] = {name: [] for name in sides}
        for turn in range(turns + 1):
            for image in images if turn else images[:2]:  # the first warms up
                expected = fit(torch.from_numpy(image).permute(2, 0, 1), SHOWN).numpy().astype(int)
                for name, run in sides.items():
                    began = time.process_time()
                    found = run(image)
                    if turn:
                        seconds[name].append(time.process_time() - began)
                        apart[name].append(np.abs(found.astype(int) - expected))
        for name, spent in seconds.items():
            ratios = [a / b for a, b in zip(spent, seconds["pillow"], strict=True)]
            row = {
                "images": kind,
                "side": name,
                "milliseconds": 1000 * statistics.median(spent),
                "times_pillow": statistics.quantiles(ratios, n=4),
                "largest": max(int(x.max()) for x in apart[name]),
                "share": float(np.mean([np.mean(x > 0) for x in apart[name]])),
                "worst_share": float(max(np.mean(x > 0) for x in apart[name])),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    if asked.out:
        about = {"count": len(photos), "machine": machine(torch.device("cpu"), "float32"), "rows": rows}
        asked.out.write_text(json.dumps(about, indent=1, default=str) + "\n", "utf-8")


if __name__ == "__main__":
    main()
