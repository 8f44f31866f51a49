"""`bertnli_export.worker` whose model does what the premises of a task say: die, fail, wait."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from bertnli_export import worker
from bertnli_export.scorer import Scorer, Submitted
from bertnli_export.session import DeviceError

submit = Scorer.submit


def obey(self: Scorer, premises: list[str], hypotheses: list[str]) -> Submitted:
    for text in premises:
        order, _, path = text.partition(" ")
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == "fail":
            raise DeviceError("CUDA failure 700: an illegal memory access")
        elif order == "crash":
            raise ZeroDivisionError("a bug")
        elif order == "wait":  # until the file exists
            while not Path(path).exists():
                time.sleep(0.01)
        elif order == "once" and not Path(path).exists():  # die, the first time
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    submitted = submit(self, premises, hypotheses)
    if "overflow" in premises:
        for _, logits in submitted.batches:
            logits.result()[:] = float("inf")
    return submitted


if __name__ == "__main__":
    scorer: Any = Scorer
    scorer.submit = obey
    worker.main()
