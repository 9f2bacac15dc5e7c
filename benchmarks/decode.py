"""From a JPEG file to the pixels a model sees: vitrail beside Pillow, torchvision's transforms and OpenCV.

    python benchmarks/decode.py imagenet_samples --out decode.json

Every side gets the bytes of a file and gives 224 x 224 pixels, uint8: decoded, the shorter side resized to 248, bicubic
(OpenCV: by area, which averages too), the centre cropped. One thread, one core. First the photos of the folder as they
are; then photos of 12 megapixels made of them: nine a picture, each enlarged to a third of its sides, saved by Pillow
at quality 90 (their mean size is printed: detail decides how long a JPEG takes).

Times are processor time, of one thread: what other programs do meanwhile does not count, though they share its caches.
Sides take turns on the same few photos, so that this meets all of them; ratios are of the times of one turn, and the
median of all turns is reported with the quartiles. The pixels are compared as well: with those of a
whole decode by Pillow and vitrail's resize.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vitrail.config import Preprocess
from vitrail.data import decode as decoder
from vitrail.data.decode import decode
from vitrail.data.preprocess import fit, fit_encoded
from vitrail.data.sources import list_images
from vitrail.report import machine

SHOWN = Preprocess()
WHOLE = SHOWN.model_copy(update={"jpeg": "full"})
COVER, SIDE = 248, 224
TURN = 8  # photos that a side decodes before the next one's turn


def pillow(data: bytes) -> np.ndarray:
    """What ImageFolder and transforms v1 do."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    cols, rows = image.size
    size = (COVER, int(COVER * rows / cols)) if cols <= rows else (int(COVER * cols / rows), COVER)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def with_pillow_alone(function: Callable[[bytes], object]) -> Callable[[bytes], object]:
    """vitrail as it is without the extra `fast`."""

    def run(data: bytes) -> object:
        kept, decoder._simplejpeg = decoder._simplejpeg, None
        try:
            return function(data)
        finally:
            decoder._simplejpeg = kept

    return run


def sides() -> dict[str, Callable[[bytes], object]]:
    """Every way that is installed; the first is what the others are compared to."""
    found: dict[str, Callable[[bytes], object]] = {"pillow": pillow}
    if decoder._simplejpeg is not None:
        found["vitrail"] = lambda data: fit_encoded(data, SHOWN)
        found["vitrail, jpeg=full"] = lambda data: fit_encoded(data, WHOLE)
    found["vitrail without simplejpeg"] = with_pillow_alone(lambda data: fit_encoded(data, SHOWN))
    try:
        from torchvision.transforms import InterpolationMode, v2
    except ImportError:
        print("torchvision is not installed: left out")
    else:
        bicubic = InterpolationMode.BICUBIC
        on_image = v2.Compose([v2.Resize(COVER, bicubic), v2.CenterCrop(SIDE), v2.PILToTensor()])
        on_tensor = v2.Compose([v2.PILToTensor(), v2.Resize(COVER, bicubic), v2.CenterCrop(SIDE)])
        found["torchvision on PIL images"] = lambda data: on_image(Image.open(io.BytesIO(data)).convert("RGB"))
        found["torchvision on tensors"] = lambda data: on_tensor(Image.open(io.BytesIO(data)).convert("RGB"))
    try:
        import cv2
    except ImportError:
        print("OpenCV is not installed: left out")
    else:
        cv2.setNumThreads(1)

        def opencv(data: bytes) -> np.ndarray:
            image = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            rows, cols = image.shape[:2]
            scale = COVER / min(rows, cols)
            image = cv2.resize(image, (int(cols * scale), int(rows * scale)), interpolation=cv2.INTER_AREA)
            top, left = (image.shape[0] - SIDE) // 2, (image.shape[1] - SIDE) // 2
            return image[top : top + SIDE, left : left + SIDE]

        found["OpenCV"] = opencv
    return found


def large(photos: list[bytes], count: int) -> list[bytes]:
    """`count` photos of 4032 x 3024 pixels."""
    made = []
    for number in range(count):
        sheet = Image.new("RGB", (4032, 3024))
        for place in range(9):
            photo = Image.open(io.BytesIO(photos[(9 * number + place) % len(photos)])).convert("RGB")
            photo = photo.resize((1344, 1008), Image.Resampling.BICUBIC)
            sheet.paste(photo, (place % 3 * 1344, place // 3 * 1008))
        out = io.BytesIO()
        sheet.save(out, "JPEG", quality=90)
        made.append(out.getvalue())
    return made


def measure(photos: list[bytes], turns: int, size: int) -> dict[str, dict[str, float]]:
    """Milliseconds a photo and core, and how many times faster than the first side, of each side."""
    ways = sides()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):  # the first is not counted
        some = [photos[(turn * size + i) % len(photos)] for i in range(size)]
        for name, way in ways.items():
            start = time.thread_time()
            for data in some:
                way(data)
            if turn:
                times[name].append((time.thread_time() - start) / size * 1000)
    base = times["pillow"]
    rows = {}
    for name, own in times.items():
        low, middle, high = statistics.quantiles([b / o for b, o in zip(base, own, strict=True)], n=4)
        rows[name] = {
            "ms": statistics.median(own),
            "images_per_second": 1000 / statistics.median(own),
            "times_faster": middle,
            "lower_quartile": low,
            "upper_quartile": high,
        }
    return rows


def distance(photos: list[bytes]) -> dict[str, float]:
    """How far vitrail's pixels lie from those of a whole decode by Pillow, and Pillow's own resize from them."""
    ours, pillows = [], []
    for data in photos:
        kept, decoder._simplejpeg = decoder._simplejpeg, None
        reference = fit(decode(data), WHOLE).int()
        decoder._simplejpeg = kept
        ours.append((fit_encoded(data, SHOWN).int() - reference).abs())
        pillows.append((torch.tensor(pillow(data)).permute(2, 0, 1).int() - reference).abs())
    return {
        "mean": max(d.float().mean().item() for d in ours),
        "largest": max(d.max().item() for d in ours),
        "photos_not_equal": sum(bool(d.any()) for d in ours),
        "photos": len(photos),
        "pillow_mean": max(d.float().mean().item() for d in pillows),
        "pillow_largest": max(d.max().item() for d in pillows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="a folder of JPEG photos")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--large", type=int, default=12, help="photos of 12 megapixels")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    files = [path.read_bytes() for path in list_images([given.photos])]
    result: dict[str, object] = {"machine": machine(torch.device("cpu"), "uint8").model_dump(mode="json")}
    big = large(files, given.large)
    for name, photos, size in (("as they are", files, TURN), ("12 megapixels", big, 2)):
        bytes_each = statistics.mean(len(data) for data in photos)
        print(f"\n{name}: {len(photos)} photos of {bytes_each / 1000:,.0f} kB")
        rows = measure(photos, given.turns if size == TURN else max(4, given.turns // 2), size)
        for side, row in rows.items():
            print(
                f"  {side:28} {row['ms']:8.2f} ms {row['images_per_second']:7.0f} img/s a core, "
                f"{row['times_faster']:.2f} times Pillow ({row['lower_quartile']:.2f}-{row['upper_quartile']:.2f})"
            )
        far = distance(photos)
        print(f"  pixels: {far}")
        result[name] = {"photos": len(photos), "mean_bytes": bytes_each, "sides": rows, "pixels": far}
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
