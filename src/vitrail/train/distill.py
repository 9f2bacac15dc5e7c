"""A teacher's answers beside the labels: hard or soft distillation, by the distillation token or without it.

DeiT (Touvron et al. 2021, arXiv 2012.12877), section 4: the class token's head learns the labels, the distillation
token's head learns the teacher. Without that token the one head learns both (Hinton et al. 2015, arXiv 1503.02531).
The teacher sees what the student sees, mixed images included.

Axes: B images, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.config import DistillConfig, Preprocess
from vitrail.errors import ConfigError
from vitrail.models.build import Network
from vitrail.models.vit import ViT
from vitrail.train.state import state_sha256
from vitrail.types import Batch, Images, Labels, Logits, SoftLabels
from vitrail.weights.load import load_weights

LabelLoss = Callable[[Logits, Labels | SoftLabels], Float[Tensor, " B"]]


@dataclass(frozen=True)
class Teacher:
    """A trained classifier that only answers. `order` are the positions of the student's classes in its output."""

    model: Network
    preprocess: Preprocess
    order: Tensor  # K
    source: str
    sha256: str  # over all its tensors

    @torch.no_grad()
    def logits(self, images: Images, student: Preprocess) -> Logits:
        """Its logits for the student's classes, of images that were normalised for the student."""
        return self.model(seen_by(self.preprocess, images, student))[:, self.order]

    def to(self, device: torch.device) -> "Teacher":
        """The same on another device."""
        return Teacher(self.model.to(device), self.preprocess, self.order.to(device), self.source, self.sha256)


def find_teacher(source: str | Path, classes: tuple[str, ...]) -> Teacher:
    """The teacher stored at `source`, which must know the same classes by name, in whatever order.

    Raises ConfigError where it does not; WeightsError or UnknownName where it cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):  # building a model draws from the caller's stream
        loaded = load_weights(source)
    if loaded.labels is None:
        raise ConfigError(
            f"the teacher {source} does not name its classes, so its answers cannot be matched with yours"
        )
    names = loaded.labels.names
    lacking, foreign = [c for c in classes if c not in names], [n for n in names if n not in classes]
    if lacking or foreign:
        differ = [f"it lacks {_some(lacking)}"] * bool(lacking) + [f"it also knows {_some(foreign)}"] * bool(foreign)
        raise ConfigError(
            f"the teacher must know the same classes as the data, and of {source} {' and '.join(differ)}: "
            "train it on the same classes first (vitrail train DATA --weights ...)"
        )
    order = torch.tensor([names.index(name) for name in classes])
    model = loaded.model.eval().requires_grad_(False)
    return Teacher(model, loaded.preprocess, order, loaded.source, state_sha256(model.state_dict()))


def seen_by(teacher: Preprocess, images: Images, student: Preprocess) -> Float[Tensor, "B C rows cols"]:
    """Images normalised for the student as the teacher wants them.

    Normalised anew where mean or std differ; resized, with the teacher's interpolation, where sizes do. What the
    training crop shows is what is shown: the teacher's own crop is for whole photos. It is what the teacher's
    preprocessing makes of the same pixels, but for the rounding to 256 levels in both passes of its resizing.
    """
    same = (teacher.mean, teacher.std) == (student.mean, student.std)
    if same and teacher.size == student.size:
        return images
    images = images * _channels(student.std, images) + _channels(student.mean, images)  # 0 .. 1
    if teacher.size != student.size:
        mode, antialias = teacher.interpolation, teacher.antialias
        if mode == "nearest":
            images = F.interpolate(images, teacher.size, mode=mode)
        else:
            images = F.interpolate(images, teacher.size, mode=mode, align_corners=False, antialias=antialias)
        images = images.clamp(0.0, 1.0)  # bicubic weights reach beyond the pixels they are between
    return (images - _channels(teacher.mean, images)) / _channels(teacher.std, images)


def hard_loss(logits: Logits, answers: Logits) -> Float[Tensor, " B"]:
    """Cross entropy with the class that the teacher finds likeliest, never smoothed (DeiT, equation 3)."""
    return F.cross_entropy(logits, answers.argmax(dim=1), reduction="none")


def soft_loss(logits: Logits, answers: Logits, temperature: float) -> Float[Tensor, " B"]:
    """temperature^2 KL(teacher || student), of both softmaxes at that temperature, in nats (DeiT, equation 2).

    The authors' code divides it by the number of classes as well, which the equation does not.
    """
    student, teacher = (F.log_softmax(x / temperature, dim=1) for x in (logits, answers))
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


@dataclass(frozen=True)
class Distillation:
    """(1 - weight) * loss on the labels + weight * loss on the teacher's answers, for each image of a batch."""

    teacher: Teacher
    config: DistillConfig
    labels: LabelLoss
    student: Preprocess

    def __call__(self, model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
        """The losses of a micro-batch; a batch's labels may be mixed."""
        heads = model.head_logits(model.encode(batch.images)) if isinstance(model, ViT) else (model(batch.images),)
        answers = wide(self.teacher.logits(batch.images, self.student))
        taught = wide(heads[-1])
        if self.config.kind == "hard":
            loss = hard_loss(taught, answers)
        else:
            loss = soft_loss(taught, answers, self.config.temperature)
        weight = self.config.weight
        return (1.0 - weight) * self.labels(heads[0], batch.labels) + weight * loss


def wide(logits: Logits) -> Logits:
    """Half precision as single: its log-sum-exp would lose the third digit."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _channels(values: tuple[float, float, float], images: Tensor) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, dtype=images.dtype, device=images.device).view(3, 1, 1)


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3:,} more" if len(names) > 3 else shown
