"""`bertnli_export.worker` on a machine with two stand-in GPUs."""

from __future__ import annotations

import pytest
from bertnli_export import worker

from tests.support.cuda_operators import stand_in_gpu

if __name__ == "__main__":
    stand_in_gpu(pytest.MonkeyPatch(), count=2)
    worker.main()
