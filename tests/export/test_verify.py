"""`bertnli verify`: a bundle's files and logits, checked on this machine."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bertnli_export.parity import Reference
from bertnli_export.scorer import Scorer
from bertnli_export.verify import verify

from bertnli.common.errors import InputError, RunError
from tests.support import tiny
from tests.support.bundles import note_new_content


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(tiny.bundle(), tmp_path / "bundle")


def test_verify_passes_a_good_bundle_and_gives_its_figures(bundle, tmp_path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = tiny.snli_rows(30)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = verify(bundle, data, device="cpu")
    assert summary["pairs"] > 80
    assert summary["max_logit_difference"] < 1e-4
    assert summary["label_flips"] == 0
    known = [row for row in rows if row["gold_label"] != "-"]
    assert summary["rows"] == len(known)
    scores = Scorer(bundle, "cpu").score((row["sentence1"], row["sentence2"]) for row in known)
    right = sum(score.label == row["gold_label"] for score, row in zip(scores, known, strict=True))
    assert summary["accuracy"] == right / len(known)


def test_verify_names_a_changed_file(bundle) -> None:
    file = bundle / "model.onnx"
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx: not the file that was exported; found SHA-256"):
        verify(bundle, device="cpu")


def test_verify_finds_a_bundle_that_computes_something_else(bundle) -> None:
    known = Reference.load(bundle / "parity.npz")
    known.logits[3] += 2e-4
    known.save(bundle / "parity.npz")
    note_new_content(bundle, "parity.npz")
    with pytest.raises(RunError, match=r"on CPU.* does not compute what its checkpoint computes.*0\.0001 is allowed"):
        verify(bundle, device="cpu")


def test_a_damaged_reference_is_named(bundle) -> None:
    with zipfile.ZipFile(bundle / "parity.npz", "w") as archive:
        archive.writestr("logits.npy", b"junk")
    note_new_content(bundle, "parity.npz")
    with pytest.raises(InputError, match=r"parity\.npz: damaged"):
        verify(bundle, device="cpu")
    np.savez(bundle / "parity.npz", logits=np.array([object()]))
    note_new_content(bundle, "parity.npz")
    with pytest.raises(InputError, match=r"parity\.npz: damaged"):
        verify(bundle, device="cpu")
