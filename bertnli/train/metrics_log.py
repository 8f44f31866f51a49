"""The metrics of every step: `metrics.jsonl`, what `report_to` names (recorders.py), and the progress line."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from importlib import util
from typing import Any

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import write_text
from bertnli.run.config import RunConfig
from bertnli.run.folder import RunFolder, read_metrics
from bertnli.run.mistakes import refuse
from bertnli.train.recorders import Recorders

# What records metrics: its key in the run file -> its package.
_RECORDERS = {
    "report_to: tensorboard": "tensorboard",
    "report_to: wandb": "wandb",
    "report_to: mlflow": "mlflow",
    "deepspeed.tensorboard": "tensorboard",
    "deepspeed.wandb": "wandb",
    "deepspeed.comet": "comet_ml",
}


def check_installed(config: RunConfig) -> None:
    """Raises InputError for what is asked to record metrics and is not installed. On the rank that records them."""
    asked = {f"report_to: {name}": True for name in config.report_to}
    asked |= {f"deepspeed.{name}": _enabled(section) for name, section in config.deepspeed.items()}
    missing = []
    for key, package in _RECORDERS.items():
        if asked.get(key) and util.find_spec(package) is None:
            off = f"set {key}.enabled: false" if key.startswith("deepspeed") else "remove it from report_to"
            missing.append(
                InputError(f"{key} needs {package}, which is not installed", do=f"pip install {package}, or {off}")
            )
    refuse(missing, "run file")


def _enabled(section: Any) -> bool:
    return isinstance(section, Mapping) and section.get("enabled") not in (None, False)


class MetricsLog:
    """`metrics.jsonl`, one JSON object a line, and the same metrics for what `report_to` names.

    A context that closes it if an error ends the run.
    """

    def __init__(self, folder: RunFolder, steps: int, config: RunConfig, warn: Callable[[str], None]):
        """`steps`: optimizer steps already done. Lines of later steps, from before a kill, are removed.

        `warn` is told of damaged lines, and of a recorder that fails. Raises RunError if metrics.jsonl cannot be
        written, and InputError as `Recorders` does.
        """
        try:
            counting = [row for row in read_metrics(folder.metrics_file, warn) if row["step"] <= steps]
            write_text(folder.metrics_file, "".join(json.dumps(row) + "\n" for row in counting))
            self._file = folder.metrics_file.open("a")
        except OSError as error:
            raise RunError(
                f"{error.filename2 or error.filename or folder.metrics_file}: cannot be written: {error.strerror}",
                do="move it away, or make room, and give the same command again",
            ) from None
        self._recorders = Recorders(config, folder, steps, warn)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self.close(finished=False)

    def add(self, step: int, **figures: float) -> None:
        """Write one line. Raises RunError if the disk is full or fails."""
        try:
            self._file.write(json.dumps({"step": step, **figures}) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self._file.name}: cannot be written: {error.strerror}",
                do="make room and give the same command again: it continues from the last good checkpoint",
            ) from None
        self._recorders.add(step, figures)

    def close(self, finished: bool = True) -> None:
        """finished: False if the run may go on later."""
        self._file.close()
        self._recorders.end(finished)


class RecentSteps:
    """The average of the last steps, for the progress line."""

    def __init__(self, peak_seconds: Callable[[float, float], float], steps: int = 50, counted: str = "accuracy"):
        """`peak_seconds(tokens, pairs)`: seconds that a step would take at the devices' measured matmul peak. counted:
        the name of what is counted beside the loss (`Loss.counted`)."""
        self._peak_seconds, self._counted = peak_seconds, counted
        self._steps: deque[tuple[float, float, int, int, float]] = deque(maxlen=steps)

    def add(self, loss: float, counted: float, pairs: int, tokens: int, seconds: float) -> None:
        """A step, summed over all ranks. `loss`, `counted`: sums over its `pairs`."""
        self._steps.append((loss, counted, pairs, tokens, seconds))

    def last(self) -> dict[str, float]:
        """The metrics of the last step alone."""
        return self._figures(*self._steps[-1])

    def __str__(self) -> str:
        mean = self._figures(*(sum(column) for column in zip(*self._steps, strict=True)))
        return (
            f"loss {mean['loss']:.3f}, {self._counted.replace('_', ' ')} {mean[self._counted]:.3f}, "
            f"{mean['pairs_per_second']:,.0f} pairs/s, "
            f"{mean['tokens_per_second']:,.0f} tokens/s, MFU {mean['share_of_peak']:.0%} of the measured peak"
        )

    def _figures(self, loss: float, counted: float, pairs: float, tokens: float, seconds: float) -> dict[str, float]:
        return {
            "loss": loss / pairs,
            self._counted: counted / pairs,
            "pairs_per_second": pairs / seconds,
            "tokens_per_second": tokens / seconds,
            "share_of_peak": self._peak_seconds(tokens, pairs) / seconds,
        }
