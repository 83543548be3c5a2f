"""What a run writes down as it goes: `log.jsonl` and, if asked, TensorBoard events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffragan.errors import DiffraganError
from diffragan.files.atomic import write_atomically
from diffragan.training.checkpoint import TrainProgress
from diffragan.training.validation import Validation


class RunLog:
    """Appends to a run's log. Lines beyond `from_step`, from a leg that was lost, are dropped.

    With `writes` false (all processes but the first) it does nothing.

    Raises:
        DiffraganError: the folder can't be written, or TensorBoard is asked for but not installed.
    """

    def __init__(
        self, out: Path, from_step: int, *, tensorboard: bool = False, writes: bool = True
    ) -> None:
        self.path = out / "log.jsonl"
        self.writes = writes
        self.events: Any = None
        if not writes:
            return
        try:
            (out / "samples").mkdir(parents=True, exist_ok=True)
            lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        except OSError as error:
            raise DiffraganError(
                f"The folder {out} can't be written ({error.strerror or error}); choose another "
                "--out."
            ) from None
        kept = [line for line in lines if _step(line) <= from_step]
        write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise DiffraganError(
                    "TensorBoard is not installed; run pip install 'diffragan[tensorboard]' or "
                    "leave --tensorboard out."
                ) from None
            self.events = SummaryWriter(out / "tensorboard", purge_step=from_step + 1)

    def losses(self, progress: TrainProgress, values: dict[str, float]) -> None:
        """One line with the step's losses and the speed in images a second."""
        self._append(progress, values)
        if self.events:
            for name, value in values.items():
                self.events.add_scalar(f"train/{name}", value, progress.step)

    def validation(self, progress: TrainProgress, result: Validation) -> None:
        """One line with the FRC over all held-out proteins and of each."""
        self._append(
            progress,
            {"validation_frc": result.mean, "validation_by_structure": result.by_structure},
        )
        if self.events:
            self.events.add_scalar("validation/frc", result.mean, progress.step)
            for stem, bands in result.by_structure.items():
                self.events.add_scalar(f"validation/{stem}", bands["frc"], progress.step)

    def close(self) -> None:
        """Flush what TensorBoard still holds."""
        if self.events:
            self.events.close()

    def _append(self, progress: TrainProgress, values: dict[str, Any]) -> None:
        if not self.writes:
            return
        line = {
            "step": progress.step,
            "epoch": progress.epoch,
            "seconds": round(progress.seconds, 3),
            **values,
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise DiffraganError(
                f"{self.path} can't be written ({error.strerror or error}); free some space, and "
                "the same command goes on from the last checkpoint."
            ) from None


def _step(line: str) -> float:
    """The step of a log line; a torn line, left by a crash, counts as beyond any step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
