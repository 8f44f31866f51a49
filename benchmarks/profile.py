"""Where the time of a training step goes: torch's profiler over bertnli's own model and batches, by kind of work."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import machine, sets, work
from benchmarks.peers.plain_loop import PlainLoop

_STEPS = 8

_KINDS = {
    "matrix products": ("mkldnn_linear", "addmm", "aten::mm", "mkldnn_convolution", "aten::bmm"),
    "GELU": ("gelu",),  # before aten::ge
    "attention": ("flash_attention", "scaled_dot_product", "groupedattention", "baddbmm", "_softmax"),
    "dropout": ("bernoulli", "native_dropout", "drop", "aten::ge"),
    "copies and casts": ("copy_", "_to_copy", "contiguous", "clone", "aten::cat", "reorder"),
    "norms": ("layer_norm",),
    "optimizer": ("adam",),
    "gradient clipping": ("foreach_norm", "linalg_vector_norm", "foreach_mul", "clip"),
    "filling and sums": ("fill_", "zero_", "aten::sum", "aten::add", "aten::mul", "aten::div"),
    "embeddings": ("embedding", "index", "aten::gather"),
}


def kind_of(operator: str) -> str:
    """What sort of work an operator of torch's is, by its name."""
    name = operator.lower()
    return next((kind for kind, parts in _KINDS.items() if any(part in name for part in parts)), "other")


def profile(folder: Path, batch_size: int) -> dict[str, Any]:
    """Shares of a step's time by kind of work, and the twenty most expensive operators, of the plain loop."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    given = work.training(folder, sets.MODEL, sets.TRAIN_DATA, sets.SHORT.training_pairs, batch_size)
    loop = PlainLoop(given)
    loop.prepare()
    loop.run(2 * batch_size)
    unwatched = loop.run(_STEPS * batch_size)
    with profiler(activities=[ProfilerActivity.CPU]) as found:
        watched = loop.run(_STEPS * batch_size)
    totals = {event.key: (event.self_cpu_time_total, event.count) for event in found.key_averages()}
    whole = sum(seconds for seconds, _ in totals.values())
    kinds: dict[str, float] = defaultdict(float)
    for operator, (time, _) in totals.items():
        kinds[kind_of(operator)] += time / whole
    top = sorted(totals.items(), key=lambda item: -item[1][0])[:20]
    return {
        "name": f"profile-{batch_size}",
        "kind": "profile",
        **machine.describe(),
        "work": given.to_json(sets.TRAIN_DATA),
        "options": loop.options(),
        "pairs_per_second": {"unwatched": unwatched.per_second, "watched": watched.per_second},
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "operators": [
            {"name": name, "share": time / whole, "calls_a_step": count / _STEPS} for name, (time, count) in top
        ],
    }
