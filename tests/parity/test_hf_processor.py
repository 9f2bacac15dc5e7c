"""preprocessor_config.json: vitrail prepares an image as transformers' image processors do, and writes their file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    CLIPImageProcessor,
    DeiTImageProcessor,
    DINOv3ViTImageProcessor,
    SiglipImageProcessor,
    ViTImageProcessor,
)

from pictures import noise
from vitrail.config import Preprocess
from vitrail.data.preprocess import preprocess
from vitrail.errors import WeightsError
from vitrail.weights.checkpoint import read_stored
from vitrail.weights.processor import nearest, read_processor, write_processor

USUAL = Preprocess(size=24)
ROUNDED = Preprocess(size=24, odd_margin="down")
CLIP = Preprocess(
    crop=1.0, odd_margin="down", mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)
DINO = Preprocess(
    size=24, resize="squash", interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
SQUARE, CROP = {"height": 24, "width": 24}, {"height": 24, "width": 24}
CASES = [
    (ViTImageProcessor(size=SQUARE), 0.0),
    (ViTImageProcessor(size={"height": 16, "width": 40}, resample=3, do_normalize=False), 0.0),
    (DeiTImageProcessor(size={"height": 28, "width": 28}, crop_size=CROP), 0.0),
    (BitImageProcessor(size={"shortest_edge": 28}, crop_size=CROP), 0.0),
    (CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=CROP), 0.0),
    (CLIPImageProcessor(size={"shortest_edge": 25}, crop_size=CROP, image_mean=[0.1, 0.2, 0.3]), 0.0),
    (SiglipImageProcessor(size=SQUARE), 0.0),
    (DINOv3ViTImageProcessor(size=SQUARE), 1.0),  # resizes floats, vitrail whole numbers, twice: one in 255
]


def through(processor: Any, pixels: np.ndarray) -> torch.Tensor:
    return processor(torch.from_numpy(pixels).permute(2, 0, 1), return_tensors="pt").pixel_values[0]


def ours(config: Preprocess, pixels: np.ndarray) -> torch.Tensor:
    return preprocess(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), config)


@pytest.mark.parametrize("shape", [(40, 60), (61, 37), (24, 24), (20, 90)])
@pytest.mark.parametrize(("processor", "rounding"), CASES, ids=lambda value: type(value).__name__)
def test_an_image_is_prepared_alike(tmp_path: Path, processor: Any, rounding: float, shape: tuple[int, int]) -> None:
    processor.save_pretrained(tmp_path)
    table = json.loads((tmp_path / "preprocessor_config.json").read_text())
    config = read_processor(table, USUAL)
    pixels = noise(*shape)
    theirs = through(processor, pixels)
    assert theirs.std() > 0.1
    # one in 255, after the division by the deviation; 1e-6 where only the order of float32 operations differs
    allowed = 2e-6 + rounding / 255 / min(config.std)
    assert (ours(config, pixels) - theirs).abs().max() < allowed
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(write_processor(config)))
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert (through(again, pixels) - theirs).abs().max() < allowed
    assert read_processor(write_processor(config), USUAL) == config


@pytest.mark.parametrize("crop", [0.8, 0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("side", [24, 224, 384, 518])
def test_what_is_written_covers_the_same_pixels_when_read(side: int, resize: str, crop: float) -> None:
    config = Preprocess(size=side, resize=resize, crop=crop, std=(0.1, 0.2, 0.3), odd_margin="down")
    back = read_processor(write_processor(config), USUAL)
    assert int(side / back.crop) == int(side / crop)
    unlike = {"crop": crop, "odd_margin": "down"}  # without a margin, its rounding is not told
    assert back.model_copy(update=unlike) == config


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            {"size": 32, "feature_extractor_type": "ViTFeatureExtractor"},
            Preprocess(size=32, resize="squash", interpolation="bilinear"),
        ),
        (
            {"size": 32, "crop_size": 28, "do_center_crop": True, "feature_extractor_type": "DeiTFeatureExtractor"},
            Preprocess(size=28, resize="squash", crop=0.875, odd_margin="down"),
        ),
        (
            {"size": 32, "crop_size": 28, "feature_extractor_type": "CLIPFeatureExtractor", "image_std": [1, 1, 1]},
            CLIP.model_copy(update={"size": (28, 28), "crop": 0.875, "std": (1.0, 1.0, 1.0)}),
        ),
        ({"image_processor_type": "CLIPImageProcessorPil"}, CLIP),
        ({"size": SQUARE, "crop_size": None, "image_processor_type": "DINOv3ViTImageProcessorFast"}, DINO),
        (
            {"image_mean": [0.1, 0.1, 0.1], "resample": 2},
            Preprocess(size=24, interpolation="bilinear", odd_margin="down", mean=(0.1, 0.1, 0.1)),
        ),
        ({"do_normalize": None, "image_mean": None, "rescale_factor": None, "do_pad": None, "size": None}, ROUNDED),
        ({}, ROUNDED),
    ],
    ids=str,
)
def test_older_files_and_missing_fields(table: dict[str, object], expected: Preprocess) -> None:
    assert read_processor(table, USUAL) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_processor_type": "ConvNextImageProcessorFast"},
            "the ConvNextImageProcessorFast; read are those",
        ),
        ({"do_resize": False}, "do_resize=False; only True is read"),
        ({"do_rescale": False}, "do_rescale=False; only True is read"),
        ({"do_pad": True}, "do_pad=True; only False is read"),
        ({"rescale_factor": 1 / 127.5}, "not 1/255"),
        ({"resample": 1}, "resample=1; known"),
        ({"do_center_crop": False, "size": {"shortest_edge": 224}}, "keeps the shape of an image without a crop"),
        ({"size": {"shortest_edge": 24, "longest_edge": 48}}, "a number, a height and width, or shortest_edge"),
        ({"size": {"height": "24", "width": 24}}, "a number, a height and width, or shortest_edge"),
        (
            {"size": {"shortest_edge": 24}, "do_center_crop": True, "crop_size": {"height": 8, "width": 16}},
            r"crops \(8, 16\) out of images",
        ),
        (
            {"size": 24, "crop_size": 32, "do_center_crop": True},
            r"crops \(32, 32\) pixels out of \(24, 24\)",
        ),
        ({"size": 24, "crop_size": 0, "do_center_crop": True}, "which is not one share"),
    ],
    ids=str,
)
def test_what_no_preprocess_does_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_processor({"image_processor_type": "ViTImageProcessor", "size": SQUARE} | changes, USUAL)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Preprocess(antialias=False, odd_margin="down"),
            "wants them: images are resized with antialiasing",
        ),
        (
            Preprocess(),
            "wants them: a crop with an odd margin is rounded down instead of to even, by at most one pixel",
        ),
        (
            Preprocess(size=(16, 32), odd_margin="down"),
            "that is to cover 17 x 35 pixels",
        ),
    ],
    ids=str,
)
def test_what_transformers_cannot_do_is_refused(config: Preprocess, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        write_processor(config)


def test_the_nearest_that_transformers_can_do_says_what_is_lost() -> None:
    config, losses = nearest(Preprocess(antialias=False))
    assert len(losses) == 2 and write_processor(config)["size"] == {"shortest_edge": 248}
    assert nearest(Preprocess(size=224, resize="squash", crop=0.875))[1] == (), "32 is an even margin"
    assert nearest(config) == (config, ())


def test_the_processor_of_image_and_text_is_found(tmp_path: Path) -> None:
    """Version 5 saves a model's image processor inside processor_config.json."""
    part = CLIPImageProcessor().to_dict()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": part}))
    stored = read_stored(tmp_path)
    assert stored.processor is not None
    assert read_processor(stored.processor, USUAL).mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.2, 0.2, 0.2]}))
    assert read_stored(tmp_path).processor == {"image_mean": [0.2, 0.2, 0.2]}
