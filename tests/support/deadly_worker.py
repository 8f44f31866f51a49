"""`bertnli_export.worker` with a model that obeys its text: what the premises of a task say happens to the worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from bertnli_export import worker
from bertnli_export.scorer import Begun, Scorer
from bertnli_export.session import DeviceError

begin = Scorer.begin


def obey(self: Scorer, premises: list[str], hypotheses: list[str]) -> Begun:
    for text in premises:
        order, _, path = text.partition(" ")
        if order == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == "fail":
            raise DeviceError("CUDA failure 700: an illegal memory access")
        elif order == "crash":
            raise ZeroDivisionError("a bug")
        elif order == "wait":  # for a file
            while not Path(path).exists():
                time.sleep(0.01)
        elif order == "once" and not Path(path).exists():  # die, the first time
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    begun = begin(self, premises, hypotheses)
    if "overflow" in premises:
        for _, logits in begun.batches:
            logits.result()[:] = float("inf")
    return begun


if __name__ == "__main__":
    scorer: Any = Scorer
    scorer.begin = obey
    worker.main()
