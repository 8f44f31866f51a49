"""DeepSpeed files of other projects train on two ranks as the same keys of a run file do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bertnli.run.folder import run_of_job
from bertnli.train import loop as training
from tests.support import deepspeed_files as files
from tests.support.runs import losses, on_ranks, run, same, weights

__all__ = ["run"]

# A file of others, and what it says in keys of the run file.
FILES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zero-2": (files.TRANSFORMERS_ZERO2, {"zero_stage": 2, "schedule": "constant"}),
    "zero-3": (files.TRANSFORMERS_ZERO3, {"zero_stage": 3}),
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
        assert len(losses(by_file)) == 3 and losses(by_file) == losses(by_keys)
        assert same(weights(by_file), weights(by_keys))
