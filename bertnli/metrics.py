"""The figures of every step: `metrics.jsonl`, and TensorBoard where asked for."""

from __future__ import annotations

import json
from typing import Any

from bertnli.files import write_text
from bertnli.runfolder import RunFolder, read_metrics


class Metrics:
    """`metrics.jsonl`, one JSON object a line, and the same figures for TensorBoard where asked for."""

    def __init__(self, folder: RunFolder, steps: int, tensorboard: bool):
        """`steps`: optimizer steps that count; lines beyond, of a run that was killed later, are dropped."""
        counting = [row for row in read_metrics(folder.metrics_file) if row["step"] <= steps]
        write_text(folder.metrics_file, "".join(json.dumps(row) + "\n" for row in counting))
        self._file = folder.metrics_file.open("a")
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder.tensorboard), purge_step=steps + 1)

    def add(self, step: int, **figures: float) -> None:
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
