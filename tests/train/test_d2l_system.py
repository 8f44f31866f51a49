"""The book's own code against ours, at the book's sizes: d2l's BERTModel and the book's BERTClassifier.

The d2l package goes into a folder of its own that only the process making the reference sees: it pins old versions of
numpy, pandas and scipy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from bertnli.model import pretrained
from bertnli.model.attention import Packed, Padded
from bertnli.model.dropout import Dropout
from tests.conftest import ROOT, environment
from tests.support import tiny
from tests.support.whole_block import WholeBlock

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def d2l(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the d2l package alone."""
    folder = tmp_path_factory.mktemp("d2l")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "d2l==1.0.3"]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module", params=["bert.small", "bert.base"])
def made(request: pytest.FixtureRequest, d2l: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A size's name, and the folder with what reference/make_d2l.py makes of it."""
    out = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, str(ROOT / "tests/reference/make_d2l.py"), str(out), request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment(PYTHONPATH=str(d2l)))
    assert done.returncode == 0, done.stderr
    return request.param, out


def test_the_books_files_compute_what_the_book_does(made: tuple[str, Path]) -> None:
    arch, out = made
    reference = safetensors.torch.load_file(out / f"d2l_{arch}.safetensors")
    ids, segments = reference["ids"], reference["segments"]
    mask = torch.arange(ids.shape[1]) < reference["valid_lens"][:, None]

    def close(found: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    with zipfile.ZipFile(out / f"{arch}.torch.zip") as archive, archive.open(f"{arch}.torch/pretrained.params") as file:
        assert len(torch.load(file, weights_only=True)) == {"bert.small": 45, "bert.base": 205}[arch]
    encoder = pretrained.load(out / f"{arch}.torch.zip", arch=arch).build()
    reader = pretrained.load(out / arch, arch=arch).build()
    output: dict[str, Any] = {kind: reference[f"classifier.output.{kind}"] for kind in ("weight", "bias")}
    encoder.classifier.load_state_dict(output)  # the book's new layer, which its pretrained.params has not
    for model in (encoder.eval(), reader.eval()):
        with torch.no_grad():
            close(model(ids, segments, Padded(mask)), reference["logits"])
            close(model(ids[mask], segments[mask], Packed(reference["valid_lens"].tolist())), reference["logits"])
            for row, length in enumerate(reference["valid_lens"].tolist()):
                pair = (ids[row : row + 1, :length], segments[row : row + 1, :length])
                close(model(*pair, Padded(mask[row : row + 1, :length]))[0], reference["logits"][row])


def test_dropout_acts_where_the_book_has_it(made: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both with torch's masks, drawn in the same order: in training too the logits are the same; the last block is
    made to draw for tokens that it leaves out otherwise."""
    monkeypatch.setattr(Dropout, "forward", torch.nn.Dropout.forward)
    arch, out = made
    reference = safetensors.torch.load_file(out / f"d2l_{arch}.safetensors")
    source = pretrained.load(out / arch, arch=arch)
    model = source.build(source.config.with_dropout(0.2)).train()
    model.blocks[-1] = WholeBlock(model.blocks[-1])
    mask = torch.arange(reference["ids"].shape[1]) < reference["valid_lens"][:, None]
    torch.manual_seed(0)
    with torch.no_grad():
        found = model(reference["ids"], reference["segments"], Padded(mask))
    torch.testing.assert_close(found, reference["training_logits"], atol=1e-4, rtol=0)
    assert not torch.allclose(found, reference["logits"], atol=1e-2)


def test_the_books_files_train_export_and_score(made: tuple[str, Path], tmp_path: Path) -> None:
    """From the zip as the book lays it out, and from the reader's own fine-tuned folder."""
    arch, out = made
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(64)))
    run = {
        "model": str(out / f"{arch}.torch.zip"),
        "arch": arch,
        "data": {"train": "rows.jsonl"},
        "output": "run",
        "max_steps": 2,
        "global_batch_size": 16,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))

    def bertnli(*arguments: object) -> None:
        command = [sys.executable, "-m", "bertnli.cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr

    bertnli("train", "run.yaml")
    bertnli("export", "run/model", "trained", "--verify", "rows.jsonl")
    bundles = ["trained"]
    if arch == "bert.small":  # the other's takes another minute
        bertnli("export", out / arch, "readers", "--arch", arch)
        bundles.append("readers")
    for bundle in bundles:
        bertnli("score", bundle, "rows.jsonl", f"{bundle}.tsv")
        header, *rows = (tmp_path / f"{bundle}.tsv").read_text().splitlines()
        assert len(rows) == 64
        assert header.split("\t")[-7:-3] == ["prediction", "p_entailment", "p_contradiction", "p_neutral"]
