"""Where a run's numbers go beside metrics.jsonl, which always has them all."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitrail.errors import MissingExtra

EVENTS = "tensorboard"  # in the run folder
TAGS = {  # column of metrics.jsonl -> name of the curve
    "loss": "train/loss",
    "gradient_norm": "train/gradient_norm",
    "lr": "train/lr",
    "val_top1": "held-out/top1",
    "val_map": "held-out/mean_average_precision",
    "val_nll": "held-out/nll",
}


def check_tensorboard() -> None:
    """Raises MissingExtra where TensorBoard's package is not installed: before the run, not in it."""
    if importlib.util.find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", "tensorboard", "tensorboard=true")


class TensorBoard:
    """Writes the rows of metrics.jsonl as events for TensorBoard into RUN/tensorboard.

    `step` is where the run stands: TensorBoard then forgets what an earlier sitting wrote beyond it. A writer that
    fails never stops a run: `tell` hears of it once, and no more is written.
    """

    def __init__(self, folder: Path, step: int, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter  # takes a second, and a package that may be absent

            self.writer = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)
        except Exception as error:
            self._give_up(error)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of a row at its step."""
        if self.writer is None:
            return
        try:
            for column, tag in TAGS.items():
                if column in row:
                    self.writer.add_scalar(tag, row[column], row["step"])
            if any(column.startswith("val_") for column in row):
                self.writer.flush()
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is still held back, and end."""
        writer, self.writer = self.writer, None
        try:
            if writer is not None:
                writer.close()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.writer = None
        why = " ".join(f"{type(error).__name__}: {error}".split())
        self.tell(f"TensorBoard's events end here ({why}); training goes on and metrics.jsonl has every number.")
