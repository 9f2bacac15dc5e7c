"""A model folder loads in timm and in transformers with the same logits and labels."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from vitrail.config import Preprocess, ViTConfig
from vitrail.inference import load
from vitrail.models.vit import ViT
from vitrail.types import LabelSet
from vitrail.weights.checkpoint import write_model_folder

LABELS = LabelSet(("daisy", "rose", "sun | flower", "tulip", "<img onerror=x>"))
OPTIONS = [
    {},
    {"pool": "gap"},
    {"gelu": "tanh", "qkv_bias": False},
    {"image_size": (32, 48)},
    {"width": 192, "heads": 3, "mlp_dim": 500},
]


def write(folder: Path, **changes: object) -> ViT:
    torch.manual_seed(0)
    small = ViTConfig(image_size=(32, 32), patch_size=(8, 8), width=48, depth=2, heads=4, mlp_dim=96, classes=5)
    model = ViT(ViTConfig(**small.model_dump() | changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.1)
    write_model_folder(folder, model, Preprocess(size=model.config.image_size, crop=1.0), LABELS, {"licence": "mit"})
    return model


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_timm_and_transformers_give_the_same_logits(tmp_path: Path, changes: dict[str, object]) -> None:
    ours = write(tmp_path / "model", **changes).double()
    images = torch.randn(2, 3, *ours.config.image_size, dtype=torch.float64)
    in_timm = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval().double()
    in_transformers = AutoModelForImageClassification.from_pretrained(tmp_path / "model").eval().double()
    with torch.no_grad():
        assert (in_timm(images) - ours(images)).abs().max() < 1e-9
        assert (in_transformers(images).logits - ours(images)).abs().max() < 1e-9
        assert (load(tmp_path / "model").model.double()(images) - ours(images)).abs().max() == 0
    assert tuple(in_timm.pretrained_cfg["label_names"]) == LABELS.names
    assert in_transformers.config.id2label == dict(enumerate(LABELS.names))


def test_the_pipeline_of_transformers_names_the_same_classes(tmp_path: Path) -> None:
    write(tmp_path / "model")
    photo = tmp_path / "photo.png"
    Image.effect_noise((60, 40), 80).convert("RGB").save(photo)
    ours = load(tmp_path / "model").predict(photo)[0]
    theirs = pipeline("image-classification", model=str(tmp_path / "model"))(str(photo))
    assert [row["label"] for row in theirs] == list(ours.labels)
    # Pillow's resize, which timm's transforms use, differs from ours by at most 2 of 255 in a pixel
    assert [row["score"] for row in theirs] == pytest.approx(list(ours.probabilities), abs=2e-3)
