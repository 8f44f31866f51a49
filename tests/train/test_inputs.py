"""What a run has learned can be measured and exported at any time: from its folder, and from each checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bertnli.commands import model_argument
from bertnli.common.errors import InputError, RunError
from bertnli.common.printable import printable
from bertnli.model.predictor import TorchPredictor
from bertnli.model.pretrained import Pretrained
from bertnli.report import licences
from bertnli.report.licences import LicenceInfo
from bertnli.run.folder import run_of
from bertnli.run.run_file import validate_run
from bertnli.train.inputs import check_names, load_run_model, load_starting_model
from tests.conftest import Run
from tests.support import tiny
from tests.support.runs import run_files, same, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ranks: Any) -> Path:
    """A finished run of 12 steps with checkpoints after 5, 10 and 12: to read, not to change."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTNLI_CACHE", str(folder / "cache"))
        train(run_files(folder)(checkpoint={"every_steps": 5, "keep": 9}), ranks)
    return folder / "run"


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def load(path: Path) -> tuple[Pretrained, list[str]]:
    warnings: list[str] = []
    return load_run_model(path, warnings.append), warnings


def built(path: Path) -> dict[str, torch.Tensor]:
    return load(path)[0].build().state_dict()


def test_a_runs_model_is_that_of_its_last_checkpoint(finished: Path) -> None:
    last = finished / "checkpoints" / "step-00000012"
    assert same(built(finished), built(last))
    assert not same(built(finished), built(finished / "checkpoints" / "step-00000005"))
    (finished / "model").rename(finished / "elsewhere")  # as before the run had ended
    assert same(built(finished), built(last))
    assert load(last)[0].config.labels == load(finished)[0].config.labels


def test_eval_and_export_take_a_checkpoint(trained: Path, tmp_path: Path, command: Run) -> None:
    """The same results from the run's folder, its model, its last checkpoint and a bundle made of that."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(40)))
    last, bundle = trained / "checkpoints" / "step-00000012", tmp_path / "bundle"
    command("export", last, bundle)
    found = []
    for model in (trained, trained / "model", last, bundle):
        shown = json.loads(command("eval", model, rows, "--json", "--device", "cpu").stdout.splitlines()[-1])
        found.append((shown["accuracy"], shown["confusion"], shown["loss"]))
    assert found[0] == found[1] == found[2]
    assert found[3][:2] == found[0][:2] and found[3][2] == pytest.approx(found[0][2], abs=1e-5)


def test_a_runs_temperature_is_kept_with_its_model(finished: Path, tmp_path: Path, command: Run) -> None:
    source = load(finished)[0]
    predictor = TorchPredictor(source.build(), source.tokenizer, "cpu")
    files = []
    for name, seed in (("test", 1), ("held-out", 2)):
        rows = tiny.snli_rows(60, seed=seed)
        said = predictor.logits(*zip(*((row["sentence1"], row["sentence2"]) for row in rows), strict=True)).argmax(1)
        for number, (row, label) in enumerate(zip(rows, said, strict=True)):  # right on two of three, so some T fits
            row["gold_label"] = source.config.labels[(label + (number % 3 == 0)) % 3]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command("eval", finished, files[0], "--calibrate", files[1], "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert load(finished)[0].temperature != 1.0
    assert load(finished / "checkpoints" / "step-00000012")[0].temperature == 1.0


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(finished: Path) -> None:
    shutil.rmtree(finished / "model")
    for step in ("00000012", "00000010", "00000005"):
        state = finished / "checkpoints" / f"step-{step}" / "state.safetensors"
        state.write_bytes(state.read_bytes()[:-1])
        with pytest.raises(RunError, match=f"step-{step} cannot be read.*take another checkpoint"):
            load(state.parent)
        if step != "00000005":
            source, warnings = load(finished)
            assert len(warnings) == (1 if step == "00000012" else 2) and "is damaged" in warnings[0]
            assert "classifier.weight" in source.state
    with pytest.raises(InputError, match="a run without a checkpoint yet"):
        load(finished)


def test_other_paths_are_not_runs(tmp_path: Path, trained: Path) -> None:
    assert run_of(trained) and run_of(trained / "checkpoints" / "step-00000005")
    for other in (trained / "model", trained / "checkpoints", trained / "checkpoints" / "step-5", tmp_path / "none"):
        assert run_of(other) is None
        with pytest.raises(InputError, match="not a run"):
            load(other)


def test_a_model_with_a_run_file_beside_it_is_a_model(finished: Path) -> None:
    shutil.copy(finished / "run.yaml", finished / "model")
    assert run_of(finished / "model") is None


def test_a_run_takes_no_labels_option(trained: Path, command: Run) -> None:
    done = command("eval", trained, "x.tsv", "--labels", "a,b,c")
    assert done.returncode == 2
    assert "--labels" in done.stderr and "whose run file specifies it" in done.stderr


def test_a_d2l_name_implies_its_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files do not contain the number of heads; for a path the user has to give it."""
    folder = tiny.d2l_folder(tmp_path / "book", classifier=True)
    monkeypatch.setattr("bertnli.fetch.resolve.fetch", lambda name, **options: folder)
    content = {"data": {"train": "rows.jsonl"}, "output": "run", "epochs": 1}
    run = validate_run({**content, "model": "bert.small"}, "run.yaml")
    assert load_starting_model(run).config.num_heads == 4
    assert model_argument.load("bert.small", model_argument.ModelOptions()).config.num_heads == 4
    given = model_argument.ModelOptions(arch="bert.small")
    assert model_argument.split_options(given, "bert.small", str(folder)) == (model_argument.ModelOptions(), given)
    with pytest.raises(InputError, match=r"give --arch \(arch: in a run file\)"):
        load_starting_model(validate_run({**content, "model": str(folder)}, "run.yaml"))


def test_a_runs_licence_is_that_of_its_start(finished: Path, trained: Path, tmp_path: Path) -> None:
    start = shutil.copytree(trained.parent / "start", tmp_path / "start")
    run_file = (finished / "run.yaml").read_text()
    (finished / "run.yaml").write_text(run_file.replace(str(trained.parent / "start"), str(start)))
    content = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(content | {"bertnli": {**content["bertnli"], "licence": "mine"}}))
    for path in (finished, finished / "checkpoints" / "step-00000012"):
        assert licences.of_model(str(path)) == LicenceInfo("mine")


def test_all_unknown_names_are_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").touch()

    def said(**data: Any) -> str:
        with pytest.raises(InputError) as raised:
            check_names(validate_run({"model": "minilmm", "data": data, "output": "o", "epochs": 1}, "run.yaml"))
        return str(raised.value)

    several = said(train="snli-100", eval="snli-devel#a.tsv").splitlines()
    assert [line.split(";")[0] for line in several] == [
        "run file: 3 mistakes",
        "  model 'minilmm'",
        "  dataset 'snli-100'",
        "  dataset 'snli-devel'",
    ]
    for known in (str(tmp_path / "rows.tsv"), f"{tmp_path}/rows.tsv#member", "snli-dev"):
        assert "\n" not in said(train="snli-100k", eval=known)  # nothing is fetched


def test_how_a_model_of_others_was_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.hf_folder(tmp_path / "model", max_length=None)
    (folder / "pytorch_model.bin").write_bytes(b"an older one")
    source = model_argument.load(str(folder), model_argument.ModelOptions())
    said = capsys.readouterr().err.splitlines()
    assert said == list(source.notes)
    assert said[0] == f"{folder}: model.safetensors is read, and not pytorch_model.bin beside it"
    assert f"{folder}: of a pair up to {source.tokenizer.max_length} tokens are read" in said[1]


def test_a_run_may_have_other_labels_than_the_classifier_that_it_starts_from(tmp_path: Path) -> None:
    folder = tiny.hf_folder(tmp_path / "model")
    config = validate_run(
        {
            "model": str(folder),
            "data": {"train": "pairs.tsv"},
            "output": str(tmp_path / "run"),
            "epochs": 1,
            "labels": ["no", "yes"],
        },
        "it",
    )
    source = load_starting_model(config)
    assert not source.has_classifier
    assert source.build().classifier.weight.shape[0] == 2
    assert "3 outputs: a new one takes its place, for no, yes" in source.notes[0]


@pytest.mark.parametrize(
    "url",
    ["https://me:s3cr3t@host.example/a.tsv", "s3://key:s3cr3t@bucket/a.tsv", "https://host.example/a.tsv?sig=s3cr3t"],
)
def test_a_url_with_a_secret_is_refused_as_the_runs_folder_keeps_the_run_file(url: str) -> None:
    run = validate_run({"model": "minilm", "data": {"train": url}, "output": "o", "epochs": 1}, "run.yaml")
    with pytest.raises(InputError, match="credentials in the environment") as raised:
        check_names(run)
    assert "s3cr3t" not in printable(str(raised.value))
