"""Bundles of opset 17 with ONNX Runtime 1.16, in a folder of its own, give what those of opset 23 give today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bertnli_export.devices import CPU
from bertnli_export.graphs.opset17 import to_opset_17
from bertnli_export.graphs.precision import EXPORTERS
from bertnli_export.interface import INPUTS
from bertnli_export.session import Session

from bertnli.data.encoded import pad_batch
from bertnli.model import pretrained
from tests.conftest import environment
from tests.model.test_families import PAIRS, ROWS, V3, save, theirs_of

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="ONNX Runtime 1.16 is for Python up to 3.11"),
]

OLD = ("onnxruntime==1.16.3", "numpy==1.26.4")
FAMILIES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("roberta", "fp32", {"type_vocab_size": 1}),
    ("deberta-v2", "int8", V3),
    ("modernbert", "int8", {}),
)

_RUN = """
import sys
import numpy as np
import onnxruntime

onnxruntime.set_default_logger_severity(3)
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")
folder = sys.argv[1]
for name in sys.argv[2:]:
    session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
    np.save(f"{folder}/{name}.npy", session.run(["logits"], dict(np.load(f"{folder}/{name}.npz")))[0])
print(onnxruntime.__version__)
"""


def test_onnxruntime_1_16_gives_what_todays_gives(tmp_path: Path) -> None:
    """A batch with padding; attention with plain masks, with a bias of the model, with windows and rotary positions."""
    packages = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), *OLD]
    subprocess.run(pip, check=True, capture_output=True, timeout=240)
    expected = {}
    for family, precision, changes in FAMILIES:
        row = next(row for row in ROWS if row.model_type == family)
        source = pretrained.load(save(theirs_of(row.config(**changes)), tmp_path / "models" / family))
        encoded = source.tokenizer.encode(*zip(*PAIRS, strict=True))
        batch = pad_batch(encoded, range(len(encoded)), source.tokenizer.pad_id)
        np.savez(tmp_path / f"{family}.npz", **batch)
        graph = EXPORTERS[precision](source.build().eval(), encoded)
        onnx.save_model(graph, tmp_path / "today.onnx")
        expected[family] = Session(tmp_path / "today.onnx", CPU).logits(*(batch[name] for name in INPUTS))
        onnx.save_model(to_opset_17(graph), tmp_path / f"{family}.onnx")
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(tmp_path), *expected],
        env=environment(PYTHONPATH=str(packages)),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1.16.3"
    for family, today in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{family}.npy"), today, atol=1e-4, err_msg=family)
