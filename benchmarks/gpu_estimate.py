"""An estimate of a GPU's time for a training step and for scoring: a roofline, operator by operator (Williams 2009).

python -m benchmarks.gpu_estimate [--out FILE]

It runs bertnli's own step over stub CUDA libraries (see gpu_host.py) and notes what each operator of torch reads,
writes and multiplies. An operator's time is the longest of three: its bytes at the memory's rate, its FLOP at the rate
of products, and a kernel's least time. No figure of it is a measurement, and README shows none.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Rates of one GPU, each with its source."""

    peak: float  # FLOP/s in 16 bits
    of_peak: float  # what products of a block's shapes reach of it
    bandwidth: float  # bytes/s
    kernel: float  # seconds, the least between the starts of two kernels in a stream
    launch: float  # seconds of the host a launch, in the driver


H200 = Gpu(
    peak=790e12,  # large products in bf16 as users measure them; NVIDIA's data sheet says 989e12
    of_peak=0.8,  # assumed: products with inner sizes of 768 and 3,072 and 27,000 rows or more
    bandwidth=0.85 * 4.8e12,  # NVIDIA's H200 data sheet: 4.8 TB/s; assumed: simple kernels reach 85% of it
    kernel=2e-6,  # assumed, of CUDA's streams without graphs
    launch=2e-6,  # assumed; the stub libraries have no driver
)
TILE = (
    128  # rows that flash attention's kernels take at once (Dao 2023, section 3.3): shorter pairs fill a part of them
)


@dataclasses.dataclass
class Operator:
    calls: int = 0
    gigabytes: float = 0.0
    gigaflop: float = 0.0
    seconds: float = 0.0


class Roofline(TorchDispatchMode):
    """Within, the time of each operator on `gpu`, by its name in `operators`."""

    def __init__(self, gpu: Gpu):
        super().__init__()
        self.gpu = gpu
        self.operators: dict[str, Operator] = defaultdict(Operator)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        given = _on_gpu(tree_leaves((args, kwargs)))
        made = _on_gpu(tree_leaves(result))
        if func.is_view or not (given or made) or packet.__name__ in ("empty", "empty_like", "new_empty", "detach"):
            return result
        size = sum(tensor.numel() * tensor.element_size() for tensor in [*given, *made])
        flop = _flop(packet, args, kwargs or {}, result)
        row = self.operators[packet.__name__]
        row.calls += 1
        row.gigabytes += size / 1e9
        row.gigaflop += flop / 1e9
        row.seconds += max(self.gpu.kernel, size / self.gpu.bandwidth, flop / (self.gpu.peak * self.gpu.of_peak))
        return result

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.operators.values())


def _on_gpu(leaves: Iterable[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.device.type != "cpu"]


def _flop(packet: Any, args: Any, kwargs: Any, result: Any) -> float:
    if packet.__name__ in ("_flash_attention_forward", "_flash_attention_backward"):
        backward = packet.__name__.endswith("backward")
        query = args[1] if backward else args[0]
        # Each pair's tile is computed whole: two products forward, five backward.
        pairs = (args[6] if backward else args[3]).numel() - 1
        longest = args[8] if backward else args[5]
        queries = min(TILE, longest) if longest == 1 else TILE * -(-longest // TILE)
        return 2.0 * (5 if backward else 2) * pairs * queries * TILE * query.shape[1] * query.shape[2]
    formula = flop_registry.get(packet)
    return float(formula(*args, **kwargs, out_val=result)) if formula else 0.0


def training(pairs: int) -> dict[str, Any]:
    """A step of BERT-base on SNLI's lengths, in bf16 at ZeRO-0."""
    import numpy as np

    from benchmarks.gpu_host import MICRO_TOKENS, MODELS, some_pairs
    from bertnli.families.config import ModelConfig
    from bertnli.model.classifier import PairClassifier
    from bertnli.run.config import RunConfig
    from bertnli.run.deepspeed_config import deepspeed_config
    from bertnli.train.engine import Engine, ProcessGroup, parse_settings
    from bertnli.train.flops import needed_flop
    from bertnli.train.loop import accumulate
    from bertnli.train.steps import Step

    group = ProcessGroup()
    keys = {"model": "-", "data": {"train": "-"}, "output": "-", "epochs": 1, "precision": "bf16"}
    config = RunConfig.model_validate({**keys, "global_batch_size": pairs})
    model_config = ModelConfig(labels=("a", "b", "c"), vocab_size=30_522, **MODELS["BERT-base"])
    engine = Engine(PairClassifier(model_config), deepspeed_config(config, "bf16", 1, parse_settings), config, group)
    engine.train()
    corpus = some_pairs()
    chosen = np.random.default_rng(1).integers(0, len(corpus.lengths), pairs)
    step = Step.of(corpus, chosen, 0, 1, MICRO_TOKENS, group.device)
    accumulate(engine, step)
    engine.step(1e-4)
    with Roofline(H200) as roofline:
        accumulate(engine, step)
        engine.step(1e-4)
    tokens = int(corpus.lengths[chosen].sum())
    calls = sum(row.calls for row in roofline.operators.values())
    needed = needed_flop(model_config, tokens, pairs)
    return {
        "work": f"training BERT-base, bf16, ZeRO-0, {pairs} pairs, {tokens} tokens",
        "gpu_ms": round(roofline.seconds * 1e3, 2),
        "driver_ms": round(calls * H200.launch * 1e3, 2),
        "pairs_per_second": round(pairs / roofline.seconds),
        "of_peak": round(needed / roofline.seconds / H200.peak, 3),
        "operators": _largest(roofline),
    }


def scoring(pairs: int = 2400) -> dict[str, Any]:
    """A batch of BERT-base in fp16 as torch would run it; a bundle's graph has fewer and larger operators."""
    import numpy as np

    from benchmarks.gpu_host import MODELS, some_pairs
    from bertnli.data.batches import pack
    from bertnli.families.config import ModelConfig
    from bertnli.model.attention import to_device
    from bertnli.model.classifier import PairClassifier

    device = torch.device("cuda")
    model_config = ModelConfig(labels=("a", "b", "c"), vocab_size=30_522, **MODELS["BERT-base"])
    model = PairClassifier(model_config).to(device, torch.float16).eval()
    corpus = some_pairs()
    inputs = to_device(pack(corpus, np.arange(pairs)), device)
    with torch.inference_mode():
        model(*inputs)
    with torch.no_grad(), Roofline(H200) as roofline:
        model(*inputs)
    return {
        "work": f"scoring BERT-base, fp16, a batch of {pairs} pairs",
        "gpu_ms": round(roofline.seconds * 1e3, 2),
        "pairs_per_second": round(pairs / roofline.seconds),
        "operators": _largest(roofline),
    }


def _largest(roofline: Roofline) -> dict[str, Any]:
    rows = sorted(roofline.operators.items(), key=lambda item: -item[1].seconds)
    return {
        name: {
            "calls": row.calls,
            "ms": round(row.seconds * 1e3, 3),
            "GB": round(row.gigabytes, 3),
            "GFLOP": round(row.gigaflop, 1),
        }
        for name, row in rows[:14]
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the record here")
    options = parser.parse_args()
    found = [training(1024), scoring()]
    for one in found:
        print({key: value for key, value in one.items() if key != "operators"})
        for name, row in one["operators"].items():
            print(f"  {name:34}", row)
    if options.out:
        from benchmarks.machine import describe

        record = {"what": "an estimate by a roofline: nothing here was measured on a GPU", **describe()}
        record |= {"command": "python -m benchmarks.gpu_estimate", "gpu": dataclasses.asdict(H200), "estimates": found}
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    sys.stdout.flush()
    os._exit(0)  # NCCL's threads would end with the stubs


if __name__ == "__main__":
    main()
