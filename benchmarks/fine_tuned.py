"""The classifier that scoring is measured with: MiniLM fine-tuned on 8,000 pairs once, and kept in bertnli's cache.

Only a trained model shows how many labels int8 changes and what that costs in accuracy.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.harness import Say
from benchmarks.peers.bertnli_train import train
from bertnli.fetch.cache import lock

PAIRS, BATCH_SIZE, SEED = 8000, 32, 0
SETTINGS = {"epochs": 2, "learning_rate": 1e-4, "global_batch_size": BATCH_SIZE, "seed": SEED}


def fine_tuned(model: str, data: str, say: Say, pairs: int = PAIRS) -> tuple[Path, dict[str, Any]]:
    """The folder of `model` trained on `pairs` rows of `data` drawn by the seed, and its description for the record.

    The folder's name depends on the settings only: later commits score with the same weights, whichever trained them.
    """
    about = {"from": model, "trained_on": data, "pairs": pairs, **SETTINGS}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    path = work.kept() / "models" / key
    with lock(f"benchmarks-{key}"):
        if not path.exists():
            say(f"training {model} on {pairs:,} pairs of {data}, once: it is kept in {path}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                _train(Path(scratch), model, data, pairs).rename(path)
    return path, about | {"sha256": weights_sha256(path)}


def weights_sha256(model: Path) -> str:
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


def _train(scratch: Path, model: str, data: str, pairs: int) -> Path:
    given = work.sample(scratch, model, data, pairs, BATCH_SIZE, SEED)
    run_file: Mapping[str, Any] = {
        "model": str(given.model),
        "data": {"train": str(given.rows)},
        "output": str(scratch / "run"),
        "report_to": "none",
        **SETTINGS,
    }
    train(run_file)
    return scratch / "run" / "model"
