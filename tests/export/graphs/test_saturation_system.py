"""int8 on an x86 CPU without VNNI, as QEMU emulates it: other programs see NaN, `Scorer` gives the right scores."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bertnli_export.build import export_bundle
from bertnli_export.scorer import Scorer

from bertnli.model import pretrained
from tests.conftest import environment
from tests.support import tiny

EMULATOR = "qemu-x86_64"
pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(600),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 CPU"),
    pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"needs {EMULATOR} (package qemu-user)"),
]

PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(20)]

# By another program: its own session, without bertnli's options.
_OTHER = """
import json, sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options, providers=["CPUExecutionProvider"])
ids = np.full((2, 5), 7)
(logits,) = session.run(None, {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0})
print(json.dumps(bool(np.isnan(logits).all())))
"""
_OURS = """
import json, sys
from bertnli_export.scorer import Scorer
print(json.dumps(Scorer(sys.argv[1], "cpu", threads=1).logits(*zip(*json.load(sys.stdin))).tolist()))
"""


def on_a_cpu_without_vnni(script: str, bundle: Path) -> Any:
    done = subprocess.run(
        [EMULATOR, "-cpu", "Haswell", sys.executable, "-c", script, str(bundle)],
        input=json.dumps(PAIRS),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_int8_is_exact_on_a_cpu_whose_products_saturate(tmp_path: Path) -> None:
    source = pretrained.load(tiny.hf_folder(tmp_path / "model", hidden_size=128, intermediate_size=256))
    export_bundle(source, tmp_path / "bundle", precision="int8")
    assert on_a_cpu_without_vnni(_OTHER, tmp_path / "bundle") is True
    here = Scorer(tmp_path / "bundle", "cpu").logits(*zip(*PAIRS, strict=True))
    there = on_a_cpu_without_vnni(_OURS, tmp_path / "bundle")
    np.testing.assert_allclose(there, here, atol=0.01)  # a value may round up here that rounds down there
