"""A temperature is the best one, calibrates rows it has not seen, changes no label, and goes with the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from bertnli_export.build import export_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.manifest import update_manifest
from bertnli_export.scorer import Scorer
from bertnli_export.verify import verify
from numpy.typing import NDArray

from bertnli.commands import model_argument
from bertnli.common import temperature
from bertnli.common.errors import InputError, RunError
from bertnli.common.temperature import Calibration
from bertnli.data.pairs import PairFile
from bertnli.evaluation.calibrate import calibrate, fit
from bertnli.evaluation.data_sets import LabelledSet
from bertnli.evaluation.evaluate import evaluate
from bertnli.fetch.entry import DataSetSchema
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from tests.conftest import Run
from tests.evaluation.test_evaluate import LABELS, Reader, write
from tests.support import tiny

TRUE = 2.5  # how much too sure of themselves the models here are


def too_sure(seed: int, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits, and gold labels drawn from the softmax of the logits divided by TRUE."""
    random = np.random.default_rng(seed)
    logits = (TRUE * random.normal(size=(rows, 3), scale=2)).astype(np.float32)
    return logits, drawn(logits, seed)


def drawn(logits: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    random = np.random.default_rng(seed)
    return np.array([random.choice(3, p=row) for row in scipy.special.softmax(logits.astype(float) / TRUE, axis=1)])


def loss(logits: NDArray[np.float32], gold: NDArray[np.int64], temperature: float) -> float:
    scaled = scipy.special.log_softmax(logits.astype(float) / temperature, axis=1)
    return float(-scaled[np.arange(len(gold)), gold].mean())


@pytest.mark.parametrize("scale", [0.02, 1.0, 15.0])
def test_it_is_the_minimum_of_the_log_loss(scale: float) -> None:
    logits, gold = too_sure(1, 500)
    found = fit(logits * np.float32(scale), gold, "rows")
    best = scipy.optimize.minimize_scalar(
        lambda log: loss(logits * np.float32(scale), gold, np.exp(log)), bounds=np.log([0.01, 100]), method="bounded"
    )
    assert found == pytest.approx(np.exp(best.x), rel=1e-3)
    assert loss(logits * np.float32(scale), gold, found) <= best.fun + 1e-12
    assert found == pytest.approx(TRUE * scale, rel=0.2)


def given(file: PairFile) -> LabelledSet:
    return LabelledSet(file.name, file, DataSetSchema())


def test_where_none_is_best_none_is_made_up() -> None:
    logits, _ = too_sure(2, 50)
    with pytest.raises(RunError, match=r"^rows: no temperature fits: the model is right on all of its 50 rows"):
        fit(logits, logits.argmax(axis=1), "rows")
    with pytest.raises(RunError, match=r"^rows: no temperature fits: the scores are worse than equal"):
        fit(logits, logits.argmin(axis=1), "rows")


def test_other_rows_are_better_calibrated_and_no_label_changes(tmp_path: Path) -> None:
    files = []
    for seed in (3, 4):
        logits, gold = too_sure(seed, 2000)
        rows = [(LABELS[index], row.tolist()) for row, index in zip(logits, gold, strict=True)]
        files.append(write(tmp_path / f"{seed}.tsv", rows))
    held_out, test = files
    predictor = Reader(temperature=0.3)  # an earlier one, which the fit does not start from
    found = calibrate(predictor, given(held_out), apart_from=given(test))
    assert found.temperature == pytest.approx(TRUE, rel=0.1) and found.rows == 2000
    assert found.loss < found.loss_without == pytest.approx(evaluate(Reader(), held_out).metrics.loss)

    plain, scaled = evaluate(Reader(), test), evaluate(Reader(temperature=found.temperature), test)
    assert plain.without_temperature is None and plain.temperature == 1
    assert scaled.metrics.ece < 0.3 * plain.metrics.ece
    assert scaled.metrics.loss < plain.metrics.loss and scaled.metrics.brier < plain.metrics.brier
    np.testing.assert_array_equal(scaled.metrics.confusion, plain.metrics.confusion)
    without = {name: getattr(plain.metrics, name) for name in ("loss", "brier", "ece")}
    assert scaled.to_json()["without_temperature"] == pytest.approx(without)
    sure, surer = scaled.wrong[0], plain.wrong[0]
    assert sure.row == surer.row and max(sure.probabilities.values()) < max(surer.probabilities.values())


def test_the_rows_it_is_measured_on_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", [("neutral", [0, 1, 0])] * 5)
    (tmp_path / "b.tsv").symlink_to(file.path)
    for same in (file, PairFile(tmp_path / "b.tsv")):
        with pytest.raises(InputError, match="found the file that the model is measured on"):
            calibrate(Reader(), given(same), apart_from=given(file))


def test_an_unknown_label_of_either_file_is_found_before_anything_is_scored(tmp_path: Path) -> None:
    good = write(tmp_path / "good.tsv", [("neutral", [0, 1, 0])] * 5)
    bad = write(tmp_path / "bad.tsv", [("neutral", [0, 1, 0]), ("neutrall", [0, 1, 0])])
    predictor = Reader()
    for held_out, test in ((good, bad), (bad, good)):
        with pytest.raises(InputError, match=r"bad\.tsv: labels .*'neutrall' \(1 row\); the first in row 2"):
            calibrate(predictor, given(held_out), apart_from=given(test))
    assert predictor.calls == []


# Where it is kept


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.hf_folder(tmp_path / "model")


def rows_for(model: Path, path: Path, seed: int, rows: int = 400) -> Path:
    """A labelled file on which the model is too sure of itself."""
    source = pretrained.load(model)
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(rows, seed)]
    logits = TorchPredictor(source.build(), source.tokenizer, "cpu").logits(*zip(*pairs, strict=True))
    lines = [f"{p}\t{h}\t{LABELS[index]}" for (p, h), index in zip(pairs, drawn(logits, seed), strict=True)]
    path.write_text("\n".join(["premise\thypothesis\tlabel", *lines]) + "\n")
    return path


FOUND = Calibration("dev.tsv", 1234, 1.7, 0.5, 0.6)


def test_a_folder_keeps_it_and_transformers_does_not_mind(model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    before = json.loads((model / "config.json").read_text())
    ids = torch.tensor([[2, 10, 11, 3, 12, 3]])
    expected = AutoModelForSequenceClassification.from_pretrained(model)(ids).logits
    assert pretrained.load(model).temperature == 1
    temperature.store(model, FOUND)
    after = json.loads((model / "config.json").read_text())
    assert after["bertnli"].pop("temperature") == 1.7 and after == before
    assert not (model / "README.md").exists()
    source = pretrained.load(model)
    assert source.temperature == 1.7
    torch.testing.assert_close(AutoModelForSequenceClassification.from_pretrained(model)(ids).logits, expected)
    # what is trained from it has other weights, which the temperature is not of
    pretrained.save(source.build(), source.tokenizer, tmp_path / "trained")
    assert pretrained.load(tmp_path / "trained").temperature == 1


def test_a_folder_by_another_author_keeps_it_too(tmp_path: Path) -> None:
    model = tiny.hf_folder(tmp_path / "model", max_length=None)
    temperature.store(model, FOUND)
    assert pretrained.load(model).temperature == 1.7


def test_the_card_says_it_once(model: Path) -> None:
    (model / "README.md").write_text("# A model\n\nText.\n\n## Measured\n\nFigures.\n")
    temperature.store(model, FOUND)
    once = (model / "README.md").read_text()
    assert once.startswith(
        "# A model\n\nText.\n\n## Measured\n\nFigures.\n\n## Calibration\n\nDivide the logits by 1.7 "
    )
    assert "1,234 held-out rows" in once
    (model / "README.md").write_text(once + "\n## Last\n\nWords.\n")
    temperature.store(model, Calibration("dev.tsv", 1234, 1.9, 0.5, 0.6))
    twice = (model / "README.md").read_text()
    assert twice.count("## Calibration") == 1 and "by 1.9 " in twice and "by 1.7 " not in twice and "Words." in twice


def test_a_section_by_another_author_stays(model: Path) -> None:
    """Of the same name: only what bertnli wrote is replaced."""
    theirs = "# A model\n\n## Calibration\n\nOn our own dev set.\n\n### Details\n\nFigures.\n"
    (model / "README.md").write_text(theirs)
    for found in (1.7, 1.9):
        temperature.store(model, Calibration("dev.tsv", 1234, found, 0.5, 0.6))
    card = (model / "README.md").read_text()
    assert card.startswith(theirs) and card.count("Divide the logits by") == 1 and "by 1.9 " in card


@pytest.mark.parametrize("wrong", [0, -1.5, "2", True, float("inf"), float("nan"), None])
def test_a_folders_temperature_that_is_none_is_named(model: Path, wrong: object) -> None:
    config = json.loads((model / "config.json").read_text())
    config["bertnli"]["temperature"] = wrong
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"config\.json: key bertnli\.temperature; found .*expected a number from 0\.001 to 1000"
    ):
        pretrained.load(model)


def test_what_cannot_keep_it_is_told_before_the_work(tmp_path: Path) -> None:
    book = tiny.d2l_folder(tmp_path / "book", classifier=True)
    with pytest.raises(InputError, match=r"no config\.json in it.*calibrate the bundle: bertnli export"):
        temperature.check_folder(str(book))
    with pytest.raises(InputError, match=r"a fetched model.*bertnli fetch minilm --to DIR"):
        temperature.check_folder("minilm")


def test_a_folder_that_may_not_be_written_is_told_before_the_work(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model / "README.md").write_bytes(b"# Ma\xdftab\n")  # Latin-1
    with pytest.raises(InputError, match=r"README\.md, byte 5: not UTF-8; .*save it as UTF-8"):
        temperature.check_folder(str(model))
    (model / "README.md").unlink()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    for form in (model, tiny.bundle()):
        with pytest.raises(InputError, match=r"found a folder without write permission; copy it"):
            model_argument.temperature_writer(str(form))


def test_a_full_disk_leaves_the_folder_as_it_was(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(RunError, match=r"the temperature cannot be stored: .*No space left"):
            temperature.store(model, FOUND)
    assert pretrained.load(model).temperature == 1
    assert not [path for path in model.iterdir() if path.name.startswith(".")]


def test_export_takes_it_along_and_every_form_says_the_same(model: Path, tmp_path: Path) -> None:
    data = PairFile(rows_for(model, tmp_path / "test.tsv", 1))
    plain = pretrained.load(model)
    temperature.store(model, FOUND)
    source = pretrained.load(model)
    export_bundle(source, tmp_path / "bundle")
    scorer = Scorer(tmp_path / "bundle", "cpu")
    assert scorer.temperature == Bundle.open(tmp_path / "bundle").manifest.temperature == 1.7
    forms = [
        TorchPredictor(source.build(), source.tokenizer, "cpu", source.temperature),
        TorchPredictor(plain.build(), plain.tokenizer, "cpu", plain.temperature),
        scorer,
    ]
    folder, undivided, bundle = (evaluate(form, data).metrics for form in forms)
    np.testing.assert_array_equal(folder.confusion, bundle.confusion)
    np.testing.assert_array_equal(folder.confusion, undivided.confusion)
    assert bundle.loss == pytest.approx(folder.loss, rel=1e-4) and folder.loss != pytest.approx(
        undivided.loss, rel=1e-2
    )
    # what `bertnli score` writes is what was measured
    pairs = [(row.premise, row.hypothesis) for row in data.rows()]
    sure = [max(score.probabilities.values()) for score in scorer.score(pairs)]
    assert np.mean(sure) == pytest.approx(bundle.bins[:, 1].sum() / bundle.rows, rel=1e-6)


def test_a_bundle_keeps_it_and_still_verifies(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny.bundle(), folder)
    bundle = Bundle.open(folder)
    others = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    update_manifest(folder, temperature=2.25)
    changed = Bundle.open(folder)
    assert changed.sha256 != bundle.sha256
    assert changed.manifest == bundle.manifest.model_copy(update={"temperature": 2.25})
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"} == others
    assert verify(folder, device="cpu")["label_flips"] == 0
    assert Scorer(folder, "cpu").temperature == 2.25


@pytest.mark.parametrize("form", ["model", "bundle"])
def test_the_command(command: Run, tmp_path: Path, model: Path, form: str) -> None:
    rows_for(model, tmp_path / "test.tsv", 1)
    rows_for(model, tmp_path / "dev.tsv", 2)
    if form == "bundle":  # of the same model
        shutil.copytree(tiny.bundle(), tmp_path / "bundle")

    def found(*arguments: object) -> dict:
        done = command("eval", form, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    before = found("test.tsv")
    assert before["temperature"] == 1 and before["without_temperature"] is None
    refused = command("eval", form, "test.tsv", "--calibrate", "./test.tsv")
    assert refused.returncode == 2 and "measured on" in refused.stderr
    fitted = found("test.tsv", "--calibrate", "dev.tsv", "--report", "report")
    assert fitted["temperature"] == fitted["calibration"]["temperature"] == pytest.approx(TRUE, rel=0.4)
    assert fitted["ece"] < before["ece"] and fitted["loss"] < before["loss"]
    assert fitted["confusion"] == before["confusion"]
    assert fitted["without_temperature"] == {key: before[key] for key in ("loss", "brier", "ece")}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "The model has a temperature" in page and "was fitted on\n  400 rows of dev.tsv" in page
    after = found("test.tsv")
    assert {key: after[key] for key in ("temperature", "loss", "ece")} == {
        key: fitted[key] for key in ("temperature", "loss", "ece")
    }
    assert found("test.tsv", "--calibrate", "dev.tsv")["temperature"] == fitted["temperature"]
    if form == "bundle":
        assert command("verify", "bundle").returncode == 0
