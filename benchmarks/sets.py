"""The sets of peers that are measured together, the amount of work of each, and the record that is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import machine, work
from benchmarks.fine_tuned import fine_tuned, weights_sha256
from benchmarks.harness import Measured, Say, measure, ratios
from benchmarks.peer import Peer
from benchmarks.peers.bertnli_score import BertnliScore
from benchmarks.peers.bertnli_train import BertnliTrain
from benchmarks.peers.cross_encoder import CrossEncoderPredict
from benchmarks.peers.d2l_loop import D2lLoop
from benchmarks.peers.deepspeed_engine import DeepSpeedEngine
from benchmarks.peers.onnx_graph import OnnxRuntimeDynamic, TransformersExporter
from benchmarks.peers.openvino_model import OpenVino
from benchmarks.peers.optimum_onnx import OptimumOnnx
from benchmarks.peers.peak import MatrixPeak
from benchmarks.peers.pipeline import TransformersPipeline
from benchmarks.peers.plain_loop import PlainLoop
from benchmarks.peers.scoring import Scoring
from benchmarks.peers.transformers_trainer import TransformersTrainer
from benchmarks.shapes import SHAPES, shaped_model
from benchmarks.tokenise import CorpusPreparation, TransformersTokenizer, tokenising
from benchmarks.work import Work
from bertnli.common.files import write_text

OURS = "bertnli"
"""Name of the peer that the others are compared with, and prefix of its other precisions and ZeRO stages."""

TRAIN_DATA, TEST_DATA, MODEL = "snli-100k", "snli-test", "minilm"


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    training_pairs, scoring_pairs: pairs of one timed run. base_pairs: the same, for scoring with a model of BERT-base's
    shape. rounds: how often each peer runs. accuracy_pairs, seeds: pairs trained on for accuracy, and how many times.
    memory_rows, score_rows: the two file sizes that are compared, in training and in scoring. long_row_rows: rows
    around the long one. starts: timed starts of the command. evidence_pairs: pairs that the models for `evidence` and
    `distill` train on. busy_pairs, loops: pairs of one timed run on a busy machine, at most, and the numbers of busy
    loops a core. processes: how often each program of `reported` runs. patience: seconds that may be spent on waiting
    for a quiet machine. every_peer: also the peers that no target needs (see `training_peers`, `scoring_peers`).
    """

    training_pairs: int
    scoring_pairs: int
    rounds: int
    accuracy_pairs: int
    seeds: int
    memory_rows: tuple[int, int]
    base_pairs: int
    score_rows: tuple[int, int]
    long_row_rows: int
    starts: int
    evidence_pairs: int
    every_peer: bool
    busy_pairs: int
    loops: tuple[int, ...]
    processes: int
    patience: float = 60.0


SHORT = Effort(
    training_pairs=512,
    scoring_pairs=512,
    rounds=3,
    accuracy_pairs=1024,
    seeds=1,
    memory_rows=(10_000, 100_000),
    base_pairs=128,
    score_rows=(10_000, 200_000),
    long_row_rows=1000,
    starts=5,
    evidence_pairs=2000,
    every_peer=False,
    busy_pairs=1024,
    loops=(1, 2),
    processes=3,
    patience=20.0,
)
FULL = Effort(
    training_pairs=1024,
    scoring_pairs=10_000,
    rounds=5,
    accuracy_pairs=8000,
    seeds=3,
    memory_rows=(100_000, 1_000_000),
    base_pairs=512,
    score_rows=(100_000, 10_000_000),
    long_row_rows=10_000,
    starts=9,
    evidence_pairs=20_000,
    every_peer=True,
    busy_pairs=1024,
    loops=(1, 2, 4),
    processes=10,
)


def training(folder: Path, batch_size: int, effort: Effort, say: Say) -> dict[str, Any]:
    """Training at one batch size: all peers, and the machine's matmul peak in the same rounds."""
    given = work.training(folder, MODEL, TRAIN_DATA, effort.training_pairs, batch_size)
    peers: list[Peer] = [*training_peers(given, every=effort.every_peer), MatrixPeak(given, "bf16")]
    return run(f"training-{batch_size}", "training", given, TRAIN_DATA, peers, effort.training_pairs, effort, say)


def training_peers(given: Work, *, every: bool) -> list[Peer]:
    """Every peer that trains, or only those that a target needs: without DeepSpeed's bare engine and ZeRO 1 to 3."""
    return [
        D2lLoop(given),  # in fp32: the reference for the losses
        TransformersTrainer(given),
        TransformersTrainer(given, best=True),
        *([DeepSpeedEngine(given)] if every else []),
        PlainLoop(given),
        BertnliTrain(given),
        *(BertnliTrain(given, name=f"bertnli-zero{stage}", zero_stage=stage) for stage in ((1, 2, 3) if every else ())),
    ]


def scoring(folder: Path, model: str | None, effort: Effort, say: Say) -> dict[str, Any]:
    """Scoring a file with one model: a folder or a fetched name; default: MiniLM fine-tuned for this benchmark."""
    path, about = fine_tuned(MODEL, TRAIN_DATA, say) if model is None else (model, {"from": model})
    return _scoring("scoring", folder, str(path), about, effort.scoring_pairs, effort, say)


def scoring_base(folder: Path, effort: Effort, say: Say) -> dict[str, Any]:
    """The same with random weights in BERT-base's shape: rates are valid, labels have no meaning.

    Two of the three labels are nearly equally likely in every row, and bf16 alone changes 4% of them: hence the higher
    tolerance.
    """
    path, about = work.random_model(folder, MODEL, work.BERT_BASE), {"random": work.BERT_BASE}
    return _scoring("scoring-base", folder, str(path), about, effort.base_pairs, effort, say, tolerance=0.3)


def _scoring(
    name: str,
    folder: Path,
    model: str,
    about: dict[str, Any],
    pairs: int,
    effort: Effort,
    say: Say,
    tolerance: float | None = None,
) -> dict[str, Any]:
    """tolerance: the share of labels that a peer in lower precision may change, if it is not the usual one."""
    from bertnli.fetch.resolve import resolve_data

    given = work.scoring(folder, model, TEST_DATA, pairs)
    calibration = Path(resolve_data(TRAIN_DATA))
    peers = scoring_peers(given, calibration, every=effort.every_peer)
    for peer in peers:
        if tolerance is not None and peer.precision != "fp32":
            peer.tolerance = tolerance
    effort = replace(effort, rounds=min(3, effort.rounds))  # one of 10,000 rows takes six minutes
    result = run(name, "scoring", given, TEST_DATA, [*peers, *_peaks(given)], pairs, effort, say)
    result["work"]["model"] = about | {"sha256": weights_sha256(given.model)}
    return result


def scoring_peers(given: Work, calibration: Path, *, every: bool) -> list[Scoring]:
    """Every peer that scores, or only those that a target needs: the usual way, and the best in fp32 and in int8.

    calibration: rows with sentence1 and sentence2 that a peer may use to calibrate int8.
    """
    others: list[Scoring] = [
        CrossEncoderPredict(given, backend="onnx"),
        CrossEncoderPredict(given, backend="openvino"),
        OptimumOnnx(given),
        OpenVino(given),
        OpenVino(given, "bf16"),
        TransformersExporter(given, "int8"),
        OnnxRuntimeDynamic(given),
    ]
    return [
        TransformersPipeline(given),  # the reference for probabilities and labels
        CrossEncoderPredict(given),
        *(others if every else []),
        TransformersExporter(given),
        OptimumOnnx(given, "int8"),
        OpenVino(given, "int8", calibration=calibration),
        BertnliScore(given),
        BertnliScore(given, "int8"),
    ]


SHAPE_TOKENS = (28, 200)
"""Tokens of a pair, about: SNLI's own rows, and joined ones."""
TRAINED_SHAPES = ("roberta-base", "deberta-v3-small")


def shape_scoring(folder: Path, shape: str, tokens: int, effort: Effort, say: Say) -> dict[str, Any]:
    """Scoring with random weights in the shape of a well-known model (shapes.py), on rows of about so many tokens."""
    from bertnli.fetch.resolve import resolve_data

    model = shaped_model(shape, Path(resolve_data(TRAIN_DATA)))
    is_long = tokens > 100
    rows = str(work.long_rows(folder, TEST_DATA, words=140)) if is_long else TEST_DATA
    pairs = effort.base_pairs // (4 if is_long else 1)
    given = work.scoring(folder, str(model), rows, pairs, max_length=256)
    peers: list[Scoring] = [
        CrossEncoderPredict(given),  # the reference for probabilities and labels
        TransformersExporter(given),
        OptimumOnnx(given),
        OpenVino(given),
        OpenVino(given, "int8", calibration=Path(resolve_data(TRAIN_DATA))),
        BertnliScore(given),
        BertnliScore(given, "int8"),
    ]
    for peer in peers:
        if peer.precision != "fp32":
            peer.tolerance = 0.3  # as in scoring_base
        if is_long and peer.batch_sizes:
            peer.batch_sizes = (4, 16)
    effort = replace(effort, rounds=min(3, effort.rounds))
    name = f"shape-{shape}-{tokens}"
    result = run(name, "shape-scoring", given, TEST_DATA, [*peers, *_peaks(given)], pairs, effort, say)
    result["work"]["model"] = {"random": SHAPES[shape].config, "shape": shape}
    return result


def shape_training(folder: Path, shape: str, effort: Effort, say: Say) -> dict[str, Any]:
    """Training at a batch of 32 with random weights in the shape of a well-known model."""
    from bertnli.fetch.resolve import resolve_data

    model = shaped_model(shape, Path(resolve_data(TRAIN_DATA)))
    pairs = effort.training_pairs // 4
    given = work.training(folder, str(model), TRAIN_DATA, pairs, 32)
    peers: list[Peer] = [
        TransformersTrainer(given),
        TransformersTrainer(given, best=True),
        PlainLoop(given),
        BertnliTrain(given),
        MatrixPeak(given, "bf16"),
    ]
    result = run(f"shape-{shape}-training", "shape-training", given, TRAIN_DATA, peers, pairs, effort, say)
    result["work"]["model"] = {"random": SHAPES[shape].config, "shape": shape}
    return result


def tokenise(folder: Path, effort: Effort, say: Say) -> dict[str, Any]:
    """All of the training rows to token ids."""
    given = tokenising(folder, MODEL, TRAIN_DATA)
    peers: list[Peer] = [TransformersTokenizer(given), CorpusPreparation(given), CorpusPreparation(given, again=True)]
    return run("tokenise", "tokenise", given, TRAIN_DATA, peers, given.pairs, effort, say)


def _peaks(given: Work) -> list[Peer]:
    return [MatrixPeak(given, "fp32"), MatrixPeak(given, "bf16")]


def run(
    name: str,
    kind: str,
    given: Work,
    data: str,
    peers: Sequence[Peer],
    amount: int,
    effort: Effort,
    say: Say,
) -> dict[str, Any]:
    """Measure, and make the record (see `record`)."""
    about = machine.describe()
    warm_up = given.batch_size or amount // 8  # a step, or some batches
    measured = measure(
        peers,
        amount=amount,
        warm_up=warm_up,
        rounds=effort.rounds,
        logs=given.folder / "logs",
        say=say,
        patience=effort.patience,
    )
    return {"name": name, "kind": kind, **about, "work": given.to_json(data), **record(measured, given)}


def record(measured: Sequence[Measured], given: Work) -> dict[str, Any]:
    """The figures of one set.

    For each peer: what `Measured.to_json` has; MFU, where the peak was measured in the same rounds (by the matrix
    products that the peer computes); bertnli's rates and memory over its own. For bertnli's trainers also the time of a
    step over the plain loop's.
    """
    by_name = {one.peer.name: one for one in measured if not one.skipped}
    peaks = {one.peer.precision: one for one in by_name.values() if isinstance(one.peer, MatrixPeak)}
    ours, plain = by_name.get(OURS), by_name.get("plain-loop")
    our_int8 = by_name.get(f"{OURS}-int8")
    rows = []
    for one in measured:
        row = one.to_json()
        if not one.skipped and one.peer.unit == "pairs":
            flop = given.flop_per_pair if one.peer.whole_last_block else given.needed_flop_per_pair
            row["share_of_peak"] = {
                precision: row["per_second"]["median"] * flop / _median(peak_) for precision, peak_ in peaks.items()
            }
            if ours is not None and one is not ours:
                row[f"{OURS}_over_it"] = ratios(ours, one)
                row[f"{OURS}_memory_over_it"] = ours.peak_rss / one.peak_rss
            if our_int8 is not None and one is not our_int8:
                row[f"{OURS}-int8_over_it"] = ratios(our_int8, one)
            if plain is not None and isinstance(one.peer, BertnliTrain):
                row["time_over_plain_loop"] = ratios(plain, one)
        rows.append(row)
    return {"rounds": max((len(one.runs) for one in measured), default=0), "peers": rows}


def _median(one: Measured) -> float:
    return one.to_json()["per_second"]["median"]


def save(result: dict[str, Any], folder: Path) -> Path:
    """`folder/NAME.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['name']}.json"
    write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path
