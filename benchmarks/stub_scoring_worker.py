"""`bertnli_export.worker` with a session that answers at once, so that the other processes' work shows.

The pairs are tokenised, batched and padded as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from bertnli_export import worker
from bertnli_export.session import Session
from numpy.typing import NDArray


def answer(self: Session, inputs: Sequence[NDArray[np.int64]]) -> Future[NDArray[np.float32]]:
    """Logits that differ from pair to pair."""
    result: Future[NDArray[np.float32]] = Future()
    result.set_result(inputs[0][:, 1 : 1 + self.outputs].astype(np.float32) / 1000)
    return result


if __name__ == "__main__":
    session: Any = Session
    session.submit = answer
    worker.main()
