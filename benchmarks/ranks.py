"""How evenly a step's tokens are assigned to the ranks: all others wait for the rank with most. Nothing is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, work
from benchmarks.harness import Say

WORLDS = (2, 4, 8)
BATCH_SIZES = (32, 256)


def ranks(folder: Path, model: str, data: str, say: Say) -> dict[str, Any]:
    """For every step of an epoch: the tokens of the rank that has most, divided by the mean of all ranks, minus one."""
    from bertnli.data.batches import Stream, assign_to_ranks
    from bertnli.data.corpus import prepare
    from bertnli.data.pairs import PairFile
    from bertnli.fetch.resolve import resolve_data

    _, source = work.model_folder(folder, model)
    corpus = prepare(PairFile(resolve_data(data)), source.tokenizer, source.config.labels)
    lengths = np.asarray(corpus.lengths)
    rows = []
    for batch_size in BATCH_SIZES:
        stream = Stream(len(corpus), batch_size, seed=0)
        steps = -(-len(corpus) // batch_size)
        for world in WORLDS:
            say(f"batch {batch_size}, {world} ranks")
            excess = [assign_to_ranks(stream.step(number), lengths, world).imbalance for number in range(steps)]
            found = {"median": float(np.median(excess)), "mean": float(np.mean(excess)), "worst": max(excess)}
            rows.append({"batch_size": batch_size, "ranks": world, "steps": steps, "excess": found})
    given = {"rows_from": data, "rows": len(corpus), "tokens_per_pair": float(lengths.mean()), "batch_size": 0}
    return {"name": "ranks", "kind": "ranks", **machine.describe(), "work": given, "imbalance": rows}
