"""`bertnli doctor`: what this machine lacks, with the fix."""

from __future__ import annotations

import json
import shutil

import onnxruntime
import pytest
from bertnli_launch.doctor import doctor

from bertnli.common.errors import InputError
from tests.support import tiny


def test_an_onnx_runtime_that_is_too_old_is_named_with_its_fix(capsys, monkeypatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    doctor()
    assert (
        "scoring: scoring needs ONNX Runtime 1.24.4 or newer; found 1.23.2; pip install -U" in capsys.readouterr().out
    )


def test_a_bundle_whose_files_contradict_each_other(capsys, tmp_path) -> None:
    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    doctor(bundle=bundle)
    assert "bundle: complete; 5 files" in capsys.readouterr().out
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["labels"].reverse()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="other labels, or another order"):
        doctor(bundle=bundle)
