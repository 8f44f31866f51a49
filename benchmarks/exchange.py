"""How long a step would take on many GPUs: a model of the exchange of gradients, with all that it assumes.

Each GPU trains on as many pairs whatever their number (weak scaling); after the backward pass the gradients are summed
over all GPUs. Nothing here is measured but where a figure says so.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GPUS = (8, 64, 512)
PER_HOST = 8
LINKS = (100, 400)
"""Gb/s each way, of a host."""
PAIRS = (32, 256)
"""A GPU in each step."""


@dataclass(frozen=True)
class Link:
    """bytes_per_second: each way. latency: seconds that a message takes besides."""

    bytes_per_second: float
    latency: float = 0.0


def ring(size: float, members: int, link: Link) -> float:
    """Seconds until each member of a ring has the sum of all their `size` bytes.

    A reduce-scatter and an all-gather: 2 (n - 1) messages of size / n, so 2 (n - 1) / n of the bytes over each link
    (Patarasuk and Yuan 2009, section 3).
    """
    return 2 * (members - 1) * (size / members / link.bytes_per_second + link.latency)


def all_reduce(size: float, gpus: int, per_host: int, inside: Link, between: Link) -> float:
    """The same over `gpus` in hosts of `per_host`: a ring inside each host, and one of the hosts, one after the other.

    Inside, each GPU comes to hold 1 / per_host of the sum, and passes that part on to its peer in the next host; all
    parts go over the host's one link, so that carries the whole of `size` as one member of a ring of hosts.
    """
    return ring(size, min(gpus, per_host), inside) + ring(size, math.ceil(gpus / per_host), between)


def step(compute: float, exchange: float, overlap: bool) -> float:
    """Seconds of a step: the exchange after computing or, at best, hidden by the backward pass.

    That is two thirds of computing: four of six operations a weight and token (bertnli/train/flops.py).
    """
    return compute / 3 + max(2 * compute / 3, exchange) if overlap else compute + exchange


@dataclass(frozen=True)
class Given:
    """A figure that goes into the model. how: counted, measured, published or assumed; source: from what, or why."""

    what: str
    value: float
    unit: str
    how: str
    source: str


INSIDE = Given(
    "bandwidth inside a host, each way",
    200e9,
    "bytes/s",
    "published",
    "bus bandwidth of all_reduce_perf on 8 A100 with NVLink, nccl-tests issue 149 (nominal: 300e9)",
)
_NCCL = "NCCL's own model, src/graph/tuning.cc: ring, Simple"
INSIDE_LATENCY = Given("latency of a message inside a host", 3.4e-6, "s", "published", _NCCL)
BETWEEN_LATENCY = Given("latency of a message between hosts", 14e-6, "s", "published", _NCCL)
LINK_SHARE = Given("share of a link's nominal rate that gradients get", 0.9, "", "assumed", "headers and protocol")

ASSUMED = (
    "Each host has 8 GPUs, joined by NVLink, and one link, which all 8 share; the switches between hosts slow nobody.",
    "Gradients are sent in fp32, all of them, as bertnli does in bf16 too (torch.autocast).",
    "A GPU computes at one rate, whatever its number of pairs; with 32 that is kind to it, and unkind to the links.",
    "Only what links carry takes time, not summing and copying; on CPU cores these do: see the measured rates above, "
    "which stay below the model's.",
    "No rank waits for another: their tokens are equal, and so are the hosts.",
    "Without overlap is what bertnli does at ZeRO-0 (DeepSpeed sums after the backward pass); with overlap is the most "
    "that could be hidden.",
    "The step's pairs grow with the GPUs; whether a model still learns as well from such steps is not asked here.",
)
NOT_MEASURED = "NCCL across hosts: not measured; there were no two hosts with GPUs."


def gpu_rate(results: Path) -> Given:
    """FLOP/s of one GPU that trains: bertnli's own on BERT-base where `results` holds it, else from a published one."""
    from bertnli.train.flops import training_flop

    path = results / "gpu-training-256.json"
    if path.exists():
        result = json.loads(path.read_text(encoding="utf-8"))
        (ours,) = [peer for peer in result["peers"] if peer["name"] == "bertnli"]
        rate = ours["per_second"]["median"] * result["work"]["needed_flop_per_pair"]
        return Given("one GPU in training", rate, "FLOP/s", "measured", f"{result['machine']['gpus'][0]}; {path.name}")
    return Given(
        "one GPU in training",
        580 * training_flop(config("large"), tokens=128),
        "FLOP/s",
        "assumed",
        "BERT-base on SNLI does as well as BERT-large in pre-training on an A100: 580 sequences/s of 128 tokens, "
        "published in NVIDIA DeepLearningExamples",
    )


def config(size: str) -> Any:
    """BERT-base or BERT-large (Devlin et al. 2018, section 3), uncased, as a classifier for three labels."""
    from bertnli.data.labels import SNLI_ORDER
    from bertnli.model.classifier import ModelConfig

    hidden, layers, heads = {"base": (768, 12, 12), "large": (1024, 24, 16)}[size]
    return ModelConfig(
        labels=SNLI_ORDER,
        vocab_size=30_522,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        intermediate_size=4 * hidden,
    )


def gradient_bytes(of: Any) -> int:
    """Of a model configuration's gradients in fp32."""
    import torch

    from bertnli.model.classifier import PairClassifier

    with torch.device("meta"):
        return 4 * sum(parameter.numel() for parameter in PairClassifier(of).parameters())


def projection(tokens_per_pair: float, gpu: Given) -> dict[str, Any]:
    """What BERT-base would give on `GPUS`, one row for each number, link and pairs a GPU; with all that went in."""
    from bertnli.train.flops import needed_flop

    base = config("base")
    flop = Given(
        "operations a pair", needed_flop(base, tokens_per_pair, pairs=1), "FLOP", "counted", "bertnli/train/flops.py"
    )
    size = Given("gradients of BERT-base", gradient_bytes(base), "bytes", "counted", "4 bytes a parameter")
    inside = Link(INSIDE.value, INSIDE_LATENCY.value)
    rows = []
    for pairs in PAIRS:
        compute = pairs * flop.value / gpu.value
        for gpus in GPUS:
            for gbit in LINKS if gpus > PER_HOST else (None,):
                between = Link((gbit or math.inf) * 1e9 / 8 * LINK_SHARE.value, BETWEEN_LATENCY.value)
                exchange = all_reduce(size.value, gpus, PER_HOST, inside, between)
                row: dict[str, Any] = {"gpus": gpus, "gbit": gbit, "pairs_a_gpu": pairs}
                row |= {"compute_seconds": compute, "exchange_seconds": exchange}
                for name, overlap in (("without_overlap", False), ("with_overlap", True)):
                    seconds = step(compute, exchange, overlap)
                    row[name] = {"pairs_per_second": gpus * pairs / seconds, "efficiency": compute / seconds}
                rows.append(row)
    given = [gpu, flop, size, INSIDE, INSIDE_LATENCY, BETWEEN_LATENCY, LINK_SHARE]
    return {
        "rows": rows,
        "given": [asdict(one) for one in given],
        "assumed": list(ASSUMED),
        "not_measured": NOT_MEASURED,
    }
