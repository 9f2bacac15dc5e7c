"""Everything a run will do, decided and checked before its first step."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vitrail.config import DataConfig, Recipe
from vitrail.data.sampler import class_counts
from vitrail.data.sources import Dataset, open_dataset
from vitrail.errors import ConfigError, UnknownName
from vitrail.models.catalog import find_model
from vitrail.train.distill import Teacher, find_teacher
from vitrail.train.folder import IDENTITY, open_run
from vitrail.train.loop import Precision, find_precision
from vitrail.train.loss import needs_counts
from vitrail.train.progress import Progress
from vitrail.train.recipes import FROM_SCRATCH, RECIPES, check_recipe, check_several, for_several
from vitrail.train.settings import change, parse_changes, total_epochs, total_steps
from vitrail.train.sinks import check_tensorboard
from vitrail.train.start import Start, find_start
from vitrail.train.summary import summarise

Notify = Callable[[Progress], None]


@dataclass(frozen=True)
class Job:
    """Everything decided before the first step."""

    dataset: Dataset
    recipe: Recipe
    start: Start | None
    folder: Path
    steps: int
    precision: Precision
    device: torch.device
    run: dict[str, Any]  # run.json
    notify: Notify
    counts: list[int] | None  # training images of each class, where the loss or the sampler depends on them
    teacher: Teacher | None

    @property
    def n_train(self) -> int:
        """Images that are trained on."""
        return len(self.dataset.split("train"))

    @property
    def epochs(self) -> float:
        """Passes over the training images of the whole run."""
        return total_epochs(self.recipe, self.n_train)

    def epoch(self, step: int) -> float:
        """Passes over the training images that are done after `step` steps."""
        return step * self.recipe.data.batch_size / self.n_train


def decide(
    data: str | Path,
    model: str | None,
    weights: str | Path | None,
    recipe: str | None,
    out: str | Path | None,
    seed: int,
    overrides: Sequence[str],
    notify: Notify,
    accept_changes: bool = False,
) -> Job:
    """Resolve what the user asked for (see `run.train`) into a Job, and open its run folder."""
    plan = choose(data, model, weights, recipe, seed, overrides)
    chosen, n_train = plan.recipe, len(plan.dataset.split("train"))
    counts = find_counts(plan)
    folder = Path(out) if out else Path("runs") / f"{plan.dataset.name}-{chosen.name}-seed{chosen.seed}"
    device = find_device()
    run = describe(plan, find_precision(chosen.precision, device), device)
    run = open_run(folder, run, accept_changes)
    steps = total_steps(chosen, n_train)
    return Job(
        plan.dataset, chosen, plan.start, folder, steps, run["precision"], device, run, notify, counts, plan.teacher
    )


@dataclass(frozen=True)
class Plan:
    """What will be trained, on what and from what."""

    dataset: Dataset
    recipe: Recipe
    start: Start | None
    teacher: Teacher | None


def rehearsal(plan: Plan) -> Job:
    """The plan as a job that has no run folder, for what only tries some steps."""
    device, steps = find_device(), total_steps(plan.recipe, len(plan.dataset.split("train")))
    precision = find_precision(plan.recipe.precision, device)
    return Job(
        plan.dataset,
        plan.recipe,
        plan.start,
        Path(),
        steps,
        precision,
        device,
        {},
        lambda news: None,
        find_counts(plan),
        plan.teacher,
    )


def find_counts(plan: Plan) -> list[int] | None:
    """Training images of each class, where the recipe asks for them."""
    if not needs_counts(plan.recipe.optim) and plan.recipe.data.sampler != "balanced":
        return None
    return class_counts(torch.from_numpy(plan.dataset.split("train").labels), plan.dataset.classes)


def find_device() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose(
    data: str | Path,
    model: str | None,
    weights: str | Path | None,
    recipe: str | None,
    seed: int,
    overrides: Sequence[str],
) -> Plan:
    """Resolve data, weights and recipe (see `run.train`); nothing is written."""
    name = recipe or ("finetune" if weights else "scratch_small")
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    if name in FROM_SCRATCH and weights:
        raise ConfigError(f"the recipe {name} starts from random weights: leave out --weights, or use finetune")
    changes = parse_changes(overrides)
    dataset = open_dataset(data, val_share=_val_share(changes), quarantine=_quarantine(changes))
    dataset.validation  # noqa: B018  # without held-out images a run could only end in an error
    start = find_start(weights, model, dataset.classes) if weights else None
    base = start.model.config if start else find_model(model) if model else None
    summary = summarise(dataset)
    chosen = RECIPES[name](summary, base, start.preprocess if start else None)
    if dataset.multilabel:
        chosen = for_several(chosen)
    chosen = change(chosen, {"seed": seed, **changes}, n_train=summary.n_train, from_weights=start is not None)
    check_recipe(chosen, summary)
    if dataset.multilabel:
        check_several(chosen, dataset.name)
    if chosen.lora.rank and start is None:
        raise ConfigError(
            f"lora.rank={chosen.lora.rank} trains small updates of trained weights: name some with --weights, "
            "or set lora.rank=0"
        )
    if chosen.optim.frozen_blocks and start is None:
        raise ConfigError(
            f"optim.frozen_blocks={chosen.optim.frozen_blocks} keeps trained weights as they are: name some with "
            "--weights, or set optim.frozen_blocks=0"
        )
    if chosen.tensorboard:
        check_tensorboard()
    if start and weights and chosen.model.image_size != start.model.config.image_size:
        start = find_start(weights, model, dataset.classes, chosen.model.image_size)
    teacher = None
    if chosen.distill.teacher is not None:
        teacher = find_teacher(chosen.distill.teacher, dataset.classes)
    return Plan(dataset, chosen, start, teacher)


def describe(plan: Plan, precision: Precision, device: torch.device) -> dict[str, Any]:
    """run.json as it is when a run begins. The identity leaves out what cannot change the result."""
    dataset, recipe, start, teacher = plan.dataset, plan.recipe, plan.start, plan.teacher
    settings = recipe.model_dump(
        mode="json", exclude={"expected": True, "tensorboard": True, "data": {"workers", "quarantine"}}
    )
    left_out = dataset.left_out
    return {
        "version": 1,
        IDENTITY: {
            "recipe": settings,
            "data": dataset.fingerprint,
            "quarantine": left_out.quarantine.sha256 if left_out else None,  # its content: the list may be moved
            "weights": start.sha256 if start else None,
            "teacher": teacher.sha256 if teacher else None,
        },
        "recipe": recipe.model_dump(mode="json"),
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "splits": {name: len(source) for name, source in dataset.splits.items()},
            "declared": dataset.declared,
            "val_share": recipe.data.val_share,
            "classes": len(dataset.classes),
            "class_names": hashlib.sha256(repr(dataset.classes).encode("utf-8", "surrogatepass")).hexdigest(),
            "quarantine": {
                "file": left_out.quarantine.path,
                "sha256": left_out.quarantine.sha256,
                "left_out": left_out.images,
            }
            if left_out
            else None,
        },
        "started_from": start.source if start else None,
        "teacher": {"source": teacher.source, "sha256": teacher.sha256} if teacher else None,
        "seed": recipe.seed,
        "precision": precision,  # a run that continues keeps it
        "device": str(device),
        "versions": {"vitrail": version("vitrail"), "torch": str(torch.__version__)},
    }


def _val_share(changes: Mapping[str, Any]) -> float:
    share = changes.get("data.val_share", DataConfig().val_share)
    if isinstance(share, int | float) and 0 < share < 1:
        return float(share)
    raise ConfigError(f"data.val_share: should be greater than 0 and less than 1, found {json.dumps(share)}")


def _quarantine(changes: Mapping[str, Any]) -> str | None:
    path = changes.get("data.quarantine")
    if path is None or isinstance(path, str):
        return path
    raise ConfigError(f"data.quarantine: should be the name of a file, found {json.dumps(path, default=str)}")
