"""Training: the same run whatever the ranks and however often it dies; every pair once; nothing overwritten."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertnli.common.errors import InputError, RunError
from bertnli.run.folder import RunFolder, read_metrics
from bertnli.run.run_file import load_run, validate_run
from bertnli.train import loop as training
from bertnli.train import metrics_log, setup
from bertnli.train.metrics_log import MetricsLog
from bertnli.train.process import main
from tests.conftest import environment
from tests.support import tiny
from tests.support.deepspeed_files import TRANSFORMERS_ZERO2
from tests.support.runs import fork, losses, on_ranks, same, start, train, train_here, wait_for_step, weights


def test_a_run_leaves_what_it_promises(tmp_path, run, ranks):
    keys = {"report_to": "tensorboard", "dropout": 0.0, "learning_rate": 5e-3}
    summary = train(run(max_steps=60, **keys), ranks, **{"data.max_train_pairs": 16})
    out = tmp_path / "run"
    assert sorted(path.name for path in out.iterdir()) == [
        *("checkpoints", "metrics.jsonl", "model", "report.html", "run.yaml", "tensorboard")
    ]
    files = {path.name for path in (out / "model").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {"output", "model", "steps", "pairs_per_second"} <= summary.keys() and summary["steps"] == 60
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 61))
    assert [row["step"] for row in rows if "eval_loss" in row][-1] == 60
    assert np.mean(losses(out)[-5:]) < np.mean(losses(out)[:5]) / 2  # it learns 16 pairs by heart
    assert load_run(out / "run.yaml").max_steps == 60
    board = EventAccumulator(str(out / "tensorboard")).Reload()
    tags = {"train/loss", "train/accuracy", "train/learning_rate", "eval/loss", "eval/accuracy"}
    assert tags <= {*board.Tags()["scalars"]}
    assert [point.step for point in board.Scalars("train/loss")] == list(range(1, 61))
    assert [point.value for point in board.Scalars("train/loss")] == pytest.approx(losses(out))


def test_a_finished_run_is_not_overwritten(tmp_path, run, ranks):
    path = run(max_steps=2)
    train(path, ranks)
    before = weights(tmp_path / "run")
    with pytest.raises(InputError, match="a finished run; give another output"):
        train(path, ranks)
    assert same(before, weights(tmp_path / "run"))


def test_another_runs_folder_and_foreign_files_are_refused(tmp_path, run, ranks):
    path = run()
    config = load_run(path)
    folder = training.RunFolder(config.output)
    folder.claim(config)
    folder.check(config)
    with pytest.raises(InputError, match=r"learning_rate: 0\.001 there, 0\.002 now"):
        folder.check(load_run(path, ["learning_rate=0.002"]))
    folder.check(load_run(path, ["checkpoint.keep=9"]))  # does not change the result
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="other files"):
        train(run(), ranks, output=tmp_path / "other")


def test_one_job_at_a_time_trains_in_an_output(tmp_path, run, ranks, monkeypatch):
    path = run(max_steps=2)
    other = RunFolder(load_run(path).output)
    other.claim(load_run(path))
    monkeypatch.setattr("bertnli.run.folder._PATIENCE", 0.0)
    with pytest.raises(InputError, match="another job is training in it; wait for that one"):
        train(path, ranks)
    other.release()
    train(path, ranks)
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_job_that_waited_for_another_finds_the_run_finished(run, ranks):
    path = run(max_steps=2)
    other = RunFolder(load_run(path).output)
    other.claim(load_run(path))

    said = []

    def say(line: str) -> None:
        said.append(line)
        if "another job is in it" in line:
            other.model.mkdir()
            other.release()

    with pytest.raises(InputError, match="a finished run"):
        training.train(load_run(path), ranks, say)
    assert sum("another job is in it; waiting 100 s for its end" in line for line in said) == 1


def test_an_output_that_cannot_be_written_is_refused(tmp_path, run, ranks):
    with pytest.raises(InputError, match=r"train\.jsonl/run: cannot be written; found Not a directory"):
        train(run(), ranks, output=tmp_path / "train.jsonl" / "run")


def test_a_run_goes_on_only_with_the_files_it_started_with(tmp_path, run, ranks):
    path, folder = run(checkpoint={"every_steps": 5, "keep": 9}), tmp_path / "run"
    train(path, ranks)
    for later in ("model", "checkpoints/step-00000012", "checkpoints/step-00000010"):
        shutil.rmtree(folder / later)
    data, original = tmp_path / "train.jsonl", (tmp_path / "train.jsonl").read_text()
    data.write_text(original + json.dumps(tiny.snli_rows(1)[0]) + "\n")
    with pytest.raises(InputError, match=r"other content; found changed content of data\.train; .*put them back"):
        train(path, ranks)
    data.write_text(original)
    tiny.hf_folder(tmp_path / "start", seed=5)
    with pytest.raises(InputError, match="changed content of model"):
        train(path, ranks)
    tiny.hf_folder(tmp_path / "start")
    train(path, ranks)
    assert len(losses(folder)) == 12


def test_a_full_disk_is_reported(tmp_path, run):
    folder = RunFolder(tmp_path / "run")
    folder.claim(load_run(run()))
    metrics = MetricsLog(folder, 0, load_run(run()), warn=print)
    metrics._file = Path("/dev/full").open("w")  # noqa: SIM115
    with pytest.raises(RunError, match="cannot be written: No space left on device; make room and give the same"):
        metrics.add(1, loss=1.0)


def test_metrics_that_cannot_be_written_are_reported(tmp_path, run):
    folder = RunFolder(tmp_path / "run")
    folder.claim(load_run(run()))
    folder.metrics_file.mkdir()
    with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be written: Is a directory; move it away"):
        MetricsLog(folder, 0, load_run(run()), warn=print)


@pytest.mark.parametrize(
    ("keys", "missing", "said"),
    [
        ({}, "tensorboard", "report_to: tensorboard needs tensorboard, .* pip install tensorboard, or remove it from"),
        ({"report_to": "none"}, "tensorboard", ""),
        ({"report_to": ["mlflow", "wandb"]}, "wandb", "report_to: wandb needs wandb, .* pip install wandb, or remove"),
        (
            {"report_to": "mlflow"},
            "mlflow",
            "report_to: mlflow needs mlflow, .*; pip install mlflow",
        ),
        (
            {"deepspeed": {"wandb": {"enabled": True}}},
            "wandb",
            "wandb needs wandb, .*set deepspeed.wandb.enabled: false",
        ),
        ({"deepspeed": {"wandb": {"enabled": False}}}, "wandb", ""),
        ({"deepspeed": {"comet": {"enabled": True}}}, "comet_ml", "deepspeed.comet needs comet_ml"),
        ({"deepspeed": {"csv_monitor": {"enabled": True}}}, "csv", ""),
    ],
)
def test_what_is_asked_to_record_metrics_and_missing_is_refused(monkeypatch, keys, missing, said):
    monkeypatch.setattr(metrics_log.util, "find_spec", lambda name: None if name == missing else name)
    config = validate_run({"model": "m", "data": {"train": "t"}, "output": "o", "epochs": 1, **keys}, "run.yaml")
    with pytest.raises(InputError, match=said) if said else nullcontext():
        metrics_log.check_installed(config)


def test_it_is_refused_before_the_weights_are_loaded(run, ranks, monkeypatch):
    monkeypatch.setattr(setup, "check_installed", lambda config: (_ for _ in ()).throw(InputError("missing")))
    monkeypatch.setattr(setup, "load_starting_model", None)  # calling it would fail
    with pytest.raises(InputError, match="missing"):
        train(run(), ranks)


def test_a_full_gpu_names_the_key_to_lower(run, ranks, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    text = "rank 0: the GPU's memory is full; found CUDA out of memory; "
    monkeypatch.setattr(training, "evaluate", full)
    with pytest.raises(RunError, match=f"{text}end what else runs on it; the same command then continues"):
        train(run(), ranks)
    monkeypatch.setattr(training, "accumulate", full)
    less = "set micro_batch_tokens: 1536"
    with pytest.raises(
        RunError, match=f"{text}{less} or gradient_checkpointing: true; the same command then continues"
    ):
        train(run(), ranks)
    with pytest.raises(RunError, match=f"{text}{less}; the same command then continues"):
        train(run(gradient_checkpointing=True), ranks)  # which the unfinished run's folder takes


def test_a_finished_model_is_on_the_disk_before_it_has_its_name(tmp_path, run, ranks, monkeypatch):
    synced, model = [], tmp_path / "run" / "model"
    monkeypatch.setattr("bertnli.common.files.sync", lambda path: synced.append((path.name, model.exists())))
    train(run(max_steps=1), ranks)
    before = {name for name, finished in synced if not finished}
    assert {path.name for path in model.iterdir()} | {".model.partial"} <= before


def test_loss_is_the_mean_over_the_step_whatever_the_micro_batches(tmp_path, run, ranks):
    for name, tokens in (("whole", 100_000), ("cut", 60)):
        train(run(name, dropout=0.0, micro_batch_tokens=tokens), ranks)
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    assert len(set(losses(tmp_path / "cut"))) > 6


def test_deterministic_algorithms_are_used_where_they_are_asked_for(tmp_path, run, ranks, monkeypatch):
    """On a CPU they change nothing."""
    used = []
    step = training.Engine.step

    def look(engine, learning_rate):
        used.append(torch.are_deterministic_algorithms_enabled())
        step(engine, learning_rate)

    monkeypatch.setattr(training.Engine, "step", look)
    for name, deterministic in (("as asked", True), ("default", False)):
        train(run(name, max_steps=2, deterministic=deterministic), ranks)
    assert used == [True, True, False, False]
    assert losses(tmp_path / "as asked") == losses(tmp_path / "default")


def test_stages_of_zero_train_the_same(tmp_path, run, ranks):
    for stage in (0, 1, 2, 3):
        train(run(f"z{stage}", dropout=0.0, zero_stage=stage, max_steps=6), ranks)
        assert losses(tmp_path / f"z{stage}") == pytest.approx(losses(tmp_path / "z0"), rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_equals_the_undisturbed(tmp_path, run, ranks, precision, monkeypatch):
    """Dropout on: whatever is random must come back too."""
    straight = run("straight", precision=precision, checkpoint={"every_steps": 4})
    train(straight, ranks)
    stopped = run("stopped", precision=precision, checkpoint={"every_steps": 4})

    class CrashError(Exception):
        pass

    started = 0

    def crash_at_ten(*arguments, **options):
        nonlocal started
        started += 1
        if started == 10:
            raise CrashError
        return real_accumulate(*arguments, **options)

    real_accumulate = training.accumulate
    monkeypatch.setattr(training, "accumulate", crash_at_ten)
    with pytest.raises(CrashError):
        train(stopped, ranks)
    monkeypatch.undo()
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "cache"))
    assert not (tmp_path / "stopped" / "model").exists()
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    metrics.write_bytes(b'\xff\x00\n[1]\n{"loss": 2.0}\n' + metrics.read_bytes())  # damage does not stop the run
    train(stopped, ranks)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))


def test_bad_rows_are_refused_or_skipped_and_counted(tmp_path, run, ranks):
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write("not json\n")
    with pytest.raises(InputError, match=r"1 bad row of 401.*row 401.*data\.skip_bad_rows"):
        train(run(), ranks)
    lines: list[str] = []
    training.train(load_run(run(max_steps=1), ["data.skip_bad_rows=true"]), ranks, say=lines.append)
    assert any("and 1 bad rows skipped" in line for line in lines)


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ({"data.eval.holdout": 400}, "data.eval.holdout"),
        ({"model": "minlm"}, "minilm"),
        ({"data.train": "snli-100"}, "snli-100k"),
        ({"precision": "fp16"}, "precision: auto"),
        ({"deepspeed.train_batch_size": 3}, "global_batch_size"),
        ({"zero_stage": 1, "deepspeed.zero_optimization.stage": 2}, "zero_stage"),
        ({"deepspeed.bf16": "{enabled: true}"}, "precision"),
        ({"arch": "bert.small"}, "--arch"),
        ({"max_length": 4096}, "max_length"),
        ({"labels": "[contradiction, neutral, entailment]"}, "entailment"),
    ],
)
def test_what_cannot_run_is_refused_before_it_starts(tmp_path, run, ranks, sets, expected):
    with pytest.raises(InputError) as raised:
        train(run(), ranks, **sets)
    assert expected in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_d2l_trains_and_its_folder_trains_again(tmp_path, run, ranks):
    tiny.d2l_folder(tmp_path / "book", arch="bert.small")
    train(run("first", model=str(tmp_path / "book"), arch="bert.small", max_steps=2), ranks)
    config = json.loads((tmp_path / "first" / "model" / "config.json").read_text())
    assert config["model_type"] == "d2l-bert" and config["num_attention_heads"] == 4
    assert list(config["id2label"].values()) == ["entailment", "contradiction", "neutral"]
    train(run("second", model=str(tmp_path / "first" / "model"), max_steps=2), ranks)


# ------------------------------------------------------------------------------------- several processes


@pytest.mark.parametrize(
    ("world", "micro_tokens", "scores"), [(2, 60, False), pytest.param(4, 4096, True, marks=pytest.mark.system)]
)
def test_the_run_does_not_depend_on_ranks_or_accumulation(tmp_path, run, ranks, world, micro_tokens, scores):
    """Gradients too: about half of these steps are clipped, so that AdamW does not hide a wrong scale."""
    data: dict[str, Any] = {"train": str(tmp_path / "train.jsonl"), "eval": {"holdout": 61}}
    keys = {"max_steps": 10, "dropout": 0.0, "max_grad_norm": 5.0, "learning_rate": 1e-4, "data": data}
    if scores:
        data["label_names"] = {"entailment": 3, "neutral": 1, "contradiction": -0.5}
        keys["problem_type"] = "regression"
    of_one = train(run("alone", micro_batch_tokens=4096, **keys), ranks)
    summary, _ = on_ranks(world, train_here, run("shared", micro_batch_tokens=micro_tokens, **keys))
    assert (summary["ranks"], summary["eval_rows"]) == (world, 61)  # each example counted once
    figures = [name for name in summary if name.startswith("eval_")]
    assert {"eval_pearson", "eval_mse"} <= set(figures) if scores else "eval_accuracy" in figures
    assert [summary[name] for name in figures] == pytest.approx([of_one[name] for name in figures], rel=1e-3)
    alone = losses(tmp_path / "alone")
    assert losses(tmp_path / "shared") == pytest.approx(alone, rel=1e-5)
    uneven = [row["imbalance"] for row in read_metrics(tmp_path / "shared" / "metrics.jsonl") if "loss" in row]
    assert len(uneven) == len(alone) == 10 and 0 < max(uneven) < 0.5


def test_a_checkpoint_goes_on_with_other_ranks(tmp_path, run, ranks):
    """From one rank to two under ZeRO-3, whose parts have other sizes then; and to another stage, in smaller parts."""
    keys = {"dropout": 0.0, "zero_stage": 3, "checkpoint": {"every_steps": 4, "keep": 9}}
    train(run("straight", **keys), ranks)
    path, folder = run("moved", **keys), tmp_path / "moved"
    later = shutil.ignore_patterns("model", "step-00000008", "step-00000012")
    shutil.copytree(tmp_path / "straight", folder, ignore=later)
    (folder / "run.yaml").write_text(load_run(path).to_yaml())
    _, lines = on_ranks(2, train_here, path)
    assert "going on from step 4 of 12" in lines
    assert losses(folder) == pytest.approx(losses(tmp_path / "straight"), rel=1e-5)
    for later in ("model", "checkpoints/step-00000012", "checkpoints/step-00000008"):
        shutil.rmtree(folder / later)
    lines = []
    training.train(load_run(path, ["zero_stage=1", "micro_batch_tokens=60"]), ranks, lines.append)
    assert "going on from step 4 of 12" in lines
    assert losses(folder) == pytest.approx(losses(tmp_path / "straight"), rel=1e-5)


def test_the_deepspeed_launcher_starts_the_same(tmp_path, run):
    path, file = run(max_steps=2), tmp_path / "ds.json"
    file.write_text(json.dumps(TRANSFORMERS_ZERO2))
    command = [str(Path(sys.executable).parent / "deepspeed"), "--module", "bertnli.train", str(path), "--json"]
    command += ["--deepspeed", "ds.json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("ds.json sets zero_stage: 2, schedule: constant, warmup_type: log\n") == 1
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert load_run(tmp_path / "run" / "run.yaml") == load_run(path, [f"deepspeed={file}"])


def train_as_the_command(path: Path, stderr: Path) -> int:
    with stderr.open("w") as sys.stderr:
        return main([str(path)])


def test_a_scheduler_stops_it_and_the_same_command_goes_on(tmp_path, run, ranks):
    path, stderr = run(max_steps=400, checkpoint={"every_steps": 10_000}), tmp_path / "stderr"
    process = fork(train_as_the_command, path, stderr)
    wait_for_step(tmp_path / "run", 3)
    process.terminate()
    process.join(120)
    assert process.exitcode == 143 and "the same command continues" in stderr.read_text()
    goes_on_from_where_it_stopped(path, ranks)


def test_ctrl_c_stops_two_ranks_and_the_same_command_goes_on(tmp_path, run, ranks):
    path = run(max_steps=400, checkpoint={"every_steps": 10_000})
    process = start(["train", path, "--ranks", 2], tmp_path)
    wait_for_step(tmp_path / "run", 3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130 and "the same command continues" in stderr, stderr
    goes_on_from_where_it_stopped(path, ranks)


def goes_on_from_where_it_stopped(path: Path, ranks) -> None:
    folder = path.with_suffix("")
    (kept,) = (folder / "checkpoints").iterdir()
    steps = json.loads((kept / "checkpoint.json").read_text())["steps"]
    assert len(losses(folder)) == steps < 400

    class GoesOnError(Exception):
        pass

    def say(line: str) -> None:
        if "going on" in line:
            raise GoesOnError(line)

    with pytest.raises(GoesOnError, match=f"from step {steps} of 400"):
        training.train(load_run(path), ranks, say)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.system)])
def test_kills_at_random_moments_do_not_change_the_result(tmp_path, run, ranks, kills):
    """Every other kill falls into the writing of a checkpoint."""
    steps = 30 * kills + 30
    keys = {"max_steps": steps, "checkpoint": {"every_steps": 5, "keep": 2}, "global_batch_size": 8}
    train(run("straight", **keys), ranks)
    path, folder = run("killed", **keys), tmp_path / "killed"
    for number in range(kills):
        before = len(losses(folder))
        process = fork(train_here, path)
        wait_for_step(folder, before + random.randint(1, 8))
        while number % 2 and process.is_alive() and not any((folder / "checkpoints").glob(".step-*.partial")):
            pass
        assert process.is_alive(), "the run ended before it could be killed"
        process.kill()
        process.join()
    train(path, ranks)
    assert len(losses(folder)) == steps
    assert losses(folder) == losses(tmp_path / "straight")
    assert same(weights(folder), weights(tmp_path / "straight"))
