import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vitrail.config import DistillConfig, Preprocess, ViTConfig
from vitrail.data.preprocess import resize, to_model
from vitrail.errors import ConfigError
from vitrail.models.vit import ViT
from vitrail.train.distill import Distillation, Teacher, find_teacher, hard_loss, seen_by, soft_loss
from vitrail.types import Batch, LabelSet
from vitrail.weights.checkpoint import write_model_folder

TOY = ViTConfig(image_size=8, patch_size=4, width=8, depth=2, heads=2, mlp_dim=8, classes=3)
PLAIN = Preprocess(size=8, crop=1.0)


def toy(seed: int, **more: object) -> ViT:
    """A model of random weights, heads included, in evaluation mode."""
    model = ViT(ViTConfig.model_validate(TOY.model_dump() | more)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def teacher_of(model: ViT, preprocess: Preprocess = PLAIN, order: tuple[int, ...] = (0, 1, 2)) -> Teacher:
    return Teacher(model.requires_grad_(False), preprocess, torch.tensor(order), "somewhere", "")


def plain_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def batch_of(seed: int = 0, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(4, 3, size, size, generator=generator), torch.tensor([0, 1, 2, 1]), torch.arange(4))


def test_hard_loss_by_hand() -> None:
    """Two classes, logits (log 3, 0): probabilities 3/4 and 1/4; the teacher says class 1, then class 0."""
    logits = torch.tensor([[math.log(3.0), 0.0]] * 2)
    answers = torch.tensor([[0.1, 0.2], [9.0, -9.0]])
    torch.testing.assert_close(hard_loss(logits, answers), torch.tensor([math.log(4.0), math.log(4.0 / 3.0)]))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_loss_by_hand(temperature: float) -> None:
    """At temperature t the student says (3/4, 1/4) and the teacher (1/2, 1/2): t^2 (log(2/3) + log 2) / 2."""
    logits = torch.tensor([[temperature * math.log(3.0), 0.0]], dtype=torch.float64)
    answers = torch.tensor([[5.0, 5.0]], dtype=torch.float64)
    expected = temperature**2 * 0.5 * (math.log(0.5 / 0.75) + math.log(0.5 / 0.25))
    torch.testing.assert_close(soft_loss(logits, answers, temperature), torch.tensor([expected], dtype=torch.float64))
    assert soft_loss(answers, answers, temperature).item() == 0.0


def test_at_a_high_temperature_the_soft_gradient_matches_logits() -> None:
    """Hinton et al. 2015, equation 4: for a large t the gradient tends to (z - v) / K, both centred."""
    z = torch.tensor([[0.3, -0.1, 0.4]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[-0.2, 0.5, 0.1]], dtype=torch.float64)
    soft_loss(z, v, 1e4).sum().backward()
    expected = ((z - z.mean()) - (v - v.mean())).detach() / 3
    torch.testing.assert_close(z.grad, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_with_the_token_each_head_learns_from_its_own(kind: str) -> None:
    student, teacher, batch = toy(0, distillation_token=True), teacher_of(toy(1)), batch_of()
    config = DistillConfig.model_validate({"teacher": "x", "kind": kind, "weight": 0.3, "temperature": 2.0})
    losses = Distillation(teacher, config, plain_loss, PLAIN)(student, batch)
    x, answers = student.encode(batch.images), teacher.model(batch.images)
    of_class, of_token = student.head(x[:, 0]), student.distillation_head(x[:, 1])
    taught = hard_loss(of_token, answers) if kind == "hard" else soft_loss(of_token, answers, 2.0)
    torch.testing.assert_close(losses, 0.7 * plain_loss(of_class, batch.labels) + 0.3 * taught)
    assert torch.equal(student(batch.images), (of_class + of_token) / 2)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_neither_head_hears_the_other_side(weight: float) -> None:
    student = toy(0, distillation_token=True)
    config = DistillConfig(teacher="x", weight=weight)
    Distillation(teacher_of(toy(1)), config, plain_loss, PLAIN)(student, batch_of()).sum().backward()
    silent, heard = (
        (student.distillation_head, student.head) if weight == 0 else (student.head, student.distillation_head)
    )
    assert silent.weight.grad is None or silent.weight.grad.abs().sum() == 0
    assert heard.weight.grad.abs().sum() > 0


def test_without_the_token_one_head_learns_both() -> None:
    student, teacher, batch = toy(0), teacher_of(toy(1)), batch_of()
    losses = Distillation(teacher, DistillConfig(teacher="x", weight=0.25), plain_loss, PLAIN)(student, batch)
    logits, answers = student(batch.images), teacher.model(batch.images)
    expected = 0.75 * plain_loss(logits, batch.labels) + 0.25 * hard_loss(logits, answers)
    torch.testing.assert_close(losses, expected)


def test_the_teacher_sees_mixed_images_and_the_labels_stay_mixed() -> None:
    student, teacher, whole = toy(0), teacher_of(toy(1)), batch_of()
    mixed = Batch(
        whole.images.flip(0) * 0.4 + whole.images * 0.6, F.one_hot(whole.labels, 3) * 0.6 + 0.4 / 3, whole.index
    )
    losses = Distillation(teacher, DistillConfig(teacher="x"), plain_loss, PLAIN)(student, mixed)
    logits = student(mixed.images)
    expected = 0.5 * plain_loss(logits, mixed.labels) + 0.5 * hard_loss(logits, teacher.model(mixed.images))
    torch.testing.assert_close(losses, expected)


def test_the_teacher_gets_no_gradient() -> None:
    model, student = toy(1), toy(0)
    teacher = teacher_of(model)
    Distillation(teacher, DistillConfig(teacher="x", kind="soft"), plain_loss, PLAIN)(
        student, batch_of()
    ).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert student.head.weight.grad is not None


def test_half_precision_logits_are_widened() -> None:
    student, teacher = toy(0), teacher_of(toy(1))
    with torch.autocast("cpu", torch.bfloat16):
        losses = Distillation(teacher, DistillConfig(teacher="x", kind="soft"), plain_loss, PLAIN)(student, batch_of())
    assert losses.dtype == torch.float32


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def test_the_teacher_sees_its_own_normalisation() -> None:
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    other = Preprocess.model_validate({"size": 8} | IMAGENET)
    seen = seen_by(other, to_model(pixels, PLAIN), PLAIN)
    torch.testing.assert_close(seen, to_model(pixels, other), rtol=0, atol=2e-6)
    images = to_model(pixels, PLAIN)
    assert seen_by(PLAIN, images, PLAIN) is images, "nothing is rounded where nothing differs"


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [6, 12])
def test_the_teacher_sees_its_own_size(interpolation: str, size: int) -> None:
    """As its preprocessing makes it of the same pixels, but for that one's rounding to 256 levels."""
    pixels = torch.randint(64, 192, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    other = Preprocess.model_validate({"size": size, "interpolation": interpolation} | IMAGENET)
    seen = seen_by(other, to_model(pixels, PLAIN)[None], PLAIN)[0]
    expected = to_model(resize(pixels, (size, size), interpolation), other)
    torch.testing.assert_close(seen, expected, rtol=0, atol=1.5 / 255 / 0.224)
    assert seen.shape == (3, size, size)


def folder_of(folder: Path, *names: str) -> Path:
    model = toy(3, classes=len(names))
    write_model_folder(folder, model, PLAIN, LabelSet(names), {})
    return folder


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "teacher", "cat", "ape", "bee")
    teacher = find_teacher(folder, ("ape", "bee", "cat"))
    images = batch_of().images
    raw = teacher.model(images)
    assert torch.equal(teacher.logits(images, PLAIN), raw[:, [1, 2, 0]])
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    assert (
        len(teacher.sha256) == 64
        and teacher.sha256 != find_teacher(folder_of(tmp_path / "two", "ape", "bee"), ("ape", "bee")).sha256
    )


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "teacher", "ape", "bee", "cow", "dog")
    with pytest.raises(ConfigError) as error:
        find_teacher(folder, ("ape", "bee", "cat"))
    assert str(error.value) == (
        f"the teacher must know the same classes as the data, and of {folder} it lacks 'cat' and it also knows 'cow', "
        "'dog': train it on the same classes first (vitrail train DATA --weights ...)"
    )
