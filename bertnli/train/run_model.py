"""The classifier of a training run, finished or not: `bertnli eval runs/snli`, or one of its checkpoints by path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bertnli.common.errors import InputError
from bertnli.model import pretrained
from bertnli.model.pretrained import Pretrained
from bertnli.run import config as run_files
from bertnli.run.folder import result_of, run_of
from bertnli.train import checkpoint
from bertnli.train.inputs import load_model


def load(path: Path, warn: Callable[[str], None]) -> Pretrained:
    """The model of the run or checkpoint at `path`: of a run `model/`, until it is there its newest whole checkpoint.

    A checkpoint has the weights; sizes, labels and tokenizer are those of the model that the run started from. `warn`
    is told of damaged checkpoints. Raises InputError if `path` is neither, has no checkpoint yet, or that model is
    gone; RunError if the checkpoint asked for is damaged.
    """
    run = run_of(path)
    if run is None:
        raise InputError(f"{path}: not a run", expected="a folder with run.yaml, or a checkpoint in one")
    if (result := result_of(path)) is not None:
        return pretrained.load(result)
    if path == run.path:
        found = checkpoint.newest(run.checkpoints, warn)
        if found is None:
            raise InputError(
                f"{path}: a run without a checkpoint yet",
                do="wait for the first one (checkpoint.every_steps), or give a model folder",
            )
    else:
        found = checkpoint.read(run.checkpoints, int(path.name.removeprefix("step-")))
    source = load_model(run_files.load(run.run_file))
    prefix = "weight/"
    weights = {name[len(prefix) :]: tensor for name, tensor in found.state.items() if name.startswith(prefix)}
    return replace(source, state=weights, sha256=found.sha256, temperature=1.0)
