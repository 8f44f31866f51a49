"""DeepSpeed files of other projects train on two ranks as the same keys of a run file do."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from bertnli.run.folder import run_of_job
from bertnli.train import loop as training
from bertnli.train import process
from tests.support import deepspeed_files as files
from tests.support.runs import losses, on_ranks, run, weights

__all__ = ["run"]

# A file of others, and what it says in keys of the run file.
FILES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zero-2": (files.TRANSFORMERS_ZERO2, {"zero_stage": 2, "schedule": "constant", "warmup_type": "log"}),
    "zero-3": (files.TRANSFORMERS_ZERO3, {"zero_stage": 3, "warmup_type": "log"}),
    "hello": (
        {**files.hello_deepspeed("fp16"), "fp16": {"enabled": "auto"}},
        {"zero_stage": 1, "learning_rate": 1e-4},
    ),
}


def train_each(paths: list[str]) -> None:
    """One rank's part."""
    group = training.ProcessGroup()
    for path in paths:
        training.train(run_of_job(path, [], group.world).config, group, lambda line: None)


@pytest.mark.system
@pytest.mark.timeout(200)
def test_files_of_others_train_as_the_same_keys_do(run, tmp_path):
    paths = []
    for name, (settings, keys) in FILES.items():
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(settings))
        for at, said in ((f"{name}-keys", keys), (f"{name}-file", {"deepspeed": str(file)})):
            left_out = dict.fromkeys(keys) if "deepspeed" in said else {}
            paths.append(str(run(at, data={"train": str(tmp_path / "train.jsonl")}, max_steps=3, **left_out | said)))
    on_ranks(2, train_each, paths)
    for name in FILES:
        by_keys, by_file = tmp_path / f"{name}-keys", tmp_path / f"{name}-file"
        assert len(losses(by_file)) == 3 and losses(by_file) == pytest.approx(losses(by_keys), rel=1e-5)
        for key, weight in weights(by_keys).items():  # an optimizer on the host, alone, rounds in another order
            if key.endswith("key.bias"):  # softmax cancels it: AdamW scales up what rounding leaves of its gradient
                continue
            torch.testing.assert_close(weights(by_file)[key], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [("--deepspeed", "ds.json"), ("--deepspeed_config=ds.json",), ("--deepspeed", "--deepspeed_config", "ds.json")],
)
def test_options_of_other_programs_name_the_file(options, tmp_path, monkeypatch, capfd):
    (tmp_path / "ds.json").write_text(json.dumps({"optimizer": {"type": "Lamb"}, "gradient_clipping": 2}))
    run_file = "{model: m, data: {train: t}, output: o, epochs: 1, max_grad_norm: 1}"
    (tmp_path / "run.yaml").write_text(run_file)
    monkeypatch.chdir(tmp_path)
    assert process.main(["run.yaml", *options, "--set", "deepspeed.zero_optimization.stage=4"]) == 2
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "bertnli train: run file run.yaml: 3 mistakes"
    expected = (
        "stage: found 4",
        "ds.json: deepspeed.optimizer.type: Lamb",
        "clipping: 2 contradicts max_grad_norm: 1.0;",
    )
    assert all(mistake in line for line, mistake in zip(said[1:], expected, strict=True))


def test_a_bare_option_of_other_programs_names_no_file():
    assert process.sets_of(process.parser().parse_args(["run.yaml", "--deepspeed"])) == []
