"""Fine-tuning, from the run file to the model folder. Read it from top to bottom.

Started by `bertnli train RUN.yaml`, or for each rank by a launcher: `deepspeed --module bertnli.train RUN.yaml`.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bertnli import checkpoint
from bertnli import config as run_files
from bertnli.batches import Indices, Stream, by_length, pack, share
from bertnli.config import RunConfig
from bertnli.corpus import Corpus
from bertnli.deepspeed_config import deepspeed_config
from bertnli.engine import Engine, Ranks, resolve_precision
from bertnli.errors import BertnliError, InputError, Interrupted, RunError
from bertnli.evaluate import Tally
from bertnli.interrupt import StopRequest
from bertnli.metrics import Metrics
from bertnli.predictor import MAX_TOKENS, to_device
from bertnli.progress import progress
from bertnli.result import publish
from bertnli.rundata import TrainingData, load_data, load_model
from bertnli.runfolder import RunFolder

MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16_384}


def train(config: RunConfig, ranks: Ranks, say: Callable[[str], None]) -> dict[str, Any]:
    """Fine-tune as `config` says; every rank of the job calls it. `say` is given one line at a time, for a person.

    Returns the summary that `--json` prints. Raises InputError before the work starts, RunError once it has,
    Interrupted when SIGINT or SIGTERM asked to stop and a checkpoint was kept.
    """
    folder = RunFolder(config.output)
    folder.check(config)
    precision = resolve_precision(config.precision, ranks.device)
    settings = deepspeed_config(config, precision, ranks.world)
    source = load_model(config)
    data = load_data(config, source, say)
    ranks.barrier()  # all have looked at the folder before one of them writes into it
    if ranks.rank == 0:
        folder.claim(config)

    if not source.has_classifier:
        say(f"{config.model} has no classifier: a new one starts, for {', '.join(source.config.labels)}")
    torch.manual_seed(config.seed)
    model_config = source.config if config.dropout is None else source.config.with_dropout(config.dropout)
    model = source.build(model_config)
    engine = Engine(model, settings, config.weight_decay, ranks)

    stream = Stream(len(data.train), config.global_batch_size, config.seed)
    total_steps = config.total_steps(len(data.train))
    eval_every = config.eval_every_steps or config.steps_per_epoch(len(data.train))
    micro_tokens = config.micro_batch_tokens or MICRO_BATCH_TOKENS[ranks.device.type]

    resumed = checkpoint.newest(folder.checkpoints, warn=say)
    steps, seconds, pairs_seen = 0, 0.0, 0
    if resumed is not None:
        engine.load_state(resumed.state, resumed.steps)
        steps, seconds, pairs_seen = resumed.steps, resumed.progress["seconds"], resumed.progress["pairs"]
        say(f"going on from step {steps} of {total_steps}")
    metrics = Metrics(folder, steps, config.tensorboard) if ranks.rank == 0 else None
    say(
        f"{len(data.train):,} pairs to train on, {len(data.evaluation):,} to evaluate on; {total_steps} steps of "
        f"{config.global_batch_size} pairs, {precision}, ZeRO-{config.zero_stage}, {ranks.world} x {ranks.device.type}"
    )

    def save_checkpoint() -> None:
        state = engine.state()  # every rank takes part in gathering it
        if ranks.rank == 0:
            where = {"seconds": seconds, "pairs": pairs_seen}
            checkpoint.write(folder.checkpoints, steps, state, where, config.checkpoint.keep)
        ranks.barrier()

    tally = None
    with StopRequest() as stop, progress("step", total_steps, quiet=ranks.rank != 0, start=steps) as show:
        while steps < total_steps:
            begun = time.perf_counter()
            # Whatever is random in a step follows from the seed and the step, so a resumed run repeats it exactly.
            torch.manual_seed(np.random.SeedSequence([config.seed, steps, ranks.rank]).generate_state(1)[0])
            chosen = data.train[stream.step(steps)]
            engine.train()
            micro_batches = share(chosen, data.corpus.lengths, ranks.rank, ranks.world, micro_tokens)
            loss_sum, correct = accumulate(engine, data.corpus, micro_batches, chosen, ranks.device)
            learning_rate = config.learning_rate_at(steps, total_steps)
            engine.step(learning_rate)

            # Waits for the device and for every rank, once a step; the signals travel along, so that all stop together.
            loss_total, correct_total, interrupted, terminated = ranks.sum(
                [loss_sum.item(), correct.item(), stop.signal == 2, stop.signal == 15]
            )
            steps += 1
            pairs_seen += len(chosen)
            took = time.perf_counter() - begun
            seconds += took
            mean_loss = loss_total / len(chosen)
            if not math.isfinite(mean_loss):
                raise RunError(
                    f"step {steps}: the loss is {mean_loss}",
                    do="lower learning_rate, or try precision: fp32; the last checkpoint is from before",
                )
            if metrics is not None:
                tokens = int(data.corpus.lengths[chosen].sum())
                metrics.add(
                    steps,
                    loss=mean_loss,
                    accuracy=correct_total / len(chosen),
                    learning_rate=learning_rate,
                    pairs_per_second=len(chosen) / took,
                    tokens_per_second=tokens / took,
                )
            show(steps, f"loss {mean_loss:.3f}, {pairs_seen / seconds:.0f} pairs/s")

            last = steps == total_steps
            if len(data.evaluation) and (last or steps % eval_every == 0):
                tally = evaluate(engine, ranks, data, source.config.labels)
                say(f"step {steps}: held-out accuracy {tally.accuracy:.4f}, loss {tally.loss:.4f}")
                if metrics is not None:
                    metrics.add(steps, eval_accuracy=tally.accuracy, eval_loss=tally.loss)
            stopping = (interrupted or terminated) and not last
            if last or stopping or steps % config.checkpoint.every_steps == 0:
                save_checkpoint()
            if stopping:
                raise Interrupted(
                    2 if interrupted else 15,
                    f"stopped after step {steps} of {total_steps}; a checkpoint is in {folder.checkpoints}",
                    do="the same command goes on from it",
                )

    if tally is None and len(data.evaluation):  # the run was killed between its last step and this line
        tally = evaluate(engine, ranks, data, source.config.labels)
    weights = engine.weights()
    summary = {
        "output": str(folder.path),
        "model": str(folder.model),
        "steps": steps,
        "pairs_per_second": pairs_seen / seconds,
        "precision": precision,
        "ranks": ranks.world,
        **({"eval_accuracy": tally.accuracy, "eval_rows": tally.rows} if tally is not None else {}),
    }
    if metrics is not None:
        metrics.close()
        publish(folder, config, source, weights, tally, summary)
    ranks.barrier()
    return summary


def accumulate(
    engine: Engine, corpus: Corpus, micro_batches: list[Indices], chosen: Indices, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the gradients of this rank's micro-batches, as shares of the mean loss over all `chosen` pairs of the step.

    Returns this rank's summed loss and number of right answers, still on the device.
    """
    loss_sum, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    for indices in micro_batches:
        # A rank without pairs of its own still takes part in the step, with a pair that counts nothing.
        counted = float(len(indices) > 0)
        indices = indices if counted else chosen[:1]
        labels = torch.from_numpy(corpus.labels[indices].astype(np.int64)).to(device)
        logits = engine(*to_device(pack(corpus, indices), device)).float()
        loss = F.cross_entropy(logits, labels, reduction="sum") * counted
        engine.backward(loss / len(chosen))
        loss_sum += loss.detach()
        correct += (logits.argmax(dim=1) == labels).sum() * counted
    return loss_sum, correct


@torch.no_grad()
def evaluate(engine: Engine, ranks: Ranks, data: TrainingData, labels: tuple[str, ...]) -> Tally:
    """Every evaluation pair once, shared out over the ranks, summed over exactly all of them."""
    engine.eval()
    tally = Tally(labels)
    corpus, indices = data.evaluation_corpus, data.evaluation
    batches = by_length(corpus.lengths[indices], MAX_TOKENS[ranks.device.type])
    rounds = math.ceil(len(batches) / ranks.world)  # under ZeRO-3 every rank must run the model equally often
    for number in range(ranks.rank, rounds * ranks.world, ranks.world):
        mine = indices[batches[number % len(batches)]]
        logits = engine(*to_device(pack(corpus, mine), ranks.device)).float().cpu().numpy()
        if number < len(batches):
            tally.add(logits, corpus.labels[mine].astype(np.int64))
    return Tally.from_vector(labels, np.asarray(ranks.sum(tally.as_vector().tolist())))


def main(arguments: list[str] | None = None) -> int:
    """What a launcher starts for each rank; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bertnli.train", description=__doc__)
    parser.add_argument("run_file", metavar="RUN.yaml")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object on the last line")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--local_rank", type=int, default=0, help="given by the deepspeed launcher; LOCAL_RANK counts")
    options = parser.parse_args(arguments)
    ranks = None
    try:
        config = run_files.load(options.run_file, options.sets)
        ranks = Ranks()
        speaks = ranks.rank == 0
        summary = train(config, ranks, say=_to_stderr if speaks else lambda line: None)
        if speaks:
            print_summary(summary, options.json)
        ranks.close()
        return 0
    except BertnliError as error:
        if options.debug:
            raise
        if ranks is None or ranks.rank == 0 or not isinstance(error, (InputError, Interrupted)):
            _to_stderr(f"bertnli train: {error}")
        return error.exit_code


def print_summary(summary: dict[str, Any], as_json: bool) -> None:
    """For a person; with `as_json` one JSON object on the last line of standard output besides."""
    print(f"model: {summary['model']}")
    if "eval_accuracy" in summary:
        print(f"held-out accuracy: {summary['eval_accuracy']:.4f} on {summary['eval_rows']:,} pairs")
    print(f"training: {summary['steps']} steps, {summary['pairs_per_second']:.1f} pairs/s")
    print(f"next: bertnli eval {shlex.quote(summary['model'])} snli-test")
    if as_json:
        print(json.dumps(summary))


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
