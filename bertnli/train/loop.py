"""Fine-tuning, from the run file to the model folder. Read it from top to bottom.

Started by `bertnli train RUN.yaml`, or for each rank by a launcher: `deepspeed --module bertnli.train RUN.yaml`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bertnli.common.errors import Interrupted, RunError
from bertnli.common.files import write_text
from bertnli.common.heartbeat import pulse
from bertnli.common.progress import progress
from bertnli.common.signals import StopRequest
from bertnli.data.batches import Indices, Stream, assign_to_ranks, batches_by_length, pack
from bertnli.data.corpus import Corpus
from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.model.attention import send
from bertnli.model.predictor import MAX_TOKENS, to_device
from bertnli.model.pretrained import Pretrained
from bertnli.run.config import RunConfig
from bertnli.run.deepspeed_config import deepspeed_config
from bertnli.run.folder import RunFolder
from bertnli.train import checkpoint
from bertnli.train.checkpoint import Position, Saver
from bertnli.train.engine import Engine, Ranks, parse_settings, resolve_precision
from bertnli.train.flops import matrix_peak, needed_flop
from bertnli.train.inputs import TrainingData, load_data, load_model
from bertnli.train.metrics_log import Metrics, Recent
from bertnli.train.result import publish

MICRO_BATCH_TOKENS = {"cpu": 3072, "cuda": 16_384}


def train(config: RunConfig, ranks: Ranks, say: Callable[[str], None]) -> dict[str, Any]:
    """Fine-tune as `config` says; every rank of the job calls it. `say` is given one line at a time, for a person.

    Returns the summary that `--json` prints. Raises InputError before the work starts, RunError once it has,
    Interrupted when SIGINT or SIGTERM asked to stop and a checkpoint was kept.
    """
    folder = RunFolder(config.output)
    try:
        return _train(config, folder, ranks, say)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"rank {ranks.rank}: the GPU's memory is full",
            found=str(error).partition(". ")[0],
            do="lower micro_batch_tokens; the same command then goes on from the last checkpoint",
        ) from None
    finally:
        folder.release()


def _train(config: RunConfig, folder: RunFolder, ranks: Ranks, say: Callable[[str], None]) -> dict[str, Any]:
    """All of it but the end of the folder's lock."""
    with ranks.agree():  # so all have looked at the folder, too, before one of them writes into it
        folder.check(config)
        precision = resolve_precision(config.precision, ranks.device)
        settings = deepspeed_config(config, precision, ranks.world, parse_settings)
        source = load_model(config)
        data = load_data(config, source, say)
    with ranks.agree():
        if ranks.rank == 0:
            folder.claim(config, say)

    if not source.has_classifier:
        say(f"{config.model} has no classifier: a new one starts, for {', '.join(source.config.labels)}")
    torch.manual_seed(config.seed)
    model_config = source.config if config.dropout is None else source.config.with_dropout(config.dropout)
    engine = Engine(source.build(model_config), settings, config.weight_decay, ranks)
    source = source.without_weights()  # the engine has its own

    stream = Stream(len(data.train), config.global_batch_size, config.seed)
    total_steps = config.total_steps(len(data.train))
    eval_every = config.eval_every_steps or config.steps_per_epoch(len(data.train))
    micro_tokens = config.micro_batch_tokens or MICRO_BATCH_TOKENS[ranks.device.type]

    at = Position(inputs={"model": source.sha256, **data.sha256})
    resumed = checkpoint.newest(folder.checkpoints, warn=say)
    if resumed is not None:
        with ranks.agree():
            folder.check_inputs(resumed.progress.get("inputs", {}), at.inputs)
        engine.load_state(resumed.state, resumed.steps)
        at = Position.of(resumed.steps, {**resumed.progress, "inputs": at.inputs})
        resumed = None  # it is as large as the engine's own state
        say(f"going on from step {at.steps} of {total_steps}")
    if ranks.sum([at.steps])[0] != at.steps * ranks.world:
        raise RunError(
            f"rank {ranks.rank} would go on from step {at.steps}, other ranks from another",
            do=f"see that every host reads the same {folder.checkpoints}",
        )
    say(
        f"{len(data.train):,} pairs to train on, {len(data.evaluation):,} to evaluate on; {total_steps} steps of "
        f"{config.global_batch_size} pairs, {precision}, ZeRO-{config.zero_stage}, {ranks.world} x {ranks.device.type}"
    )
    sizes = model_config.hidden_size, model_config.intermediate_size
    [peak] = ranks.sum([matrix_peak(*sizes, precision, ranks.device)])
    metrics = Metrics(folder, at.steps, config.tensorboard) if ranks.rank == 0 else None
    recent = Recent(lambda tokens, pairs: needed_flop(model_config, tokens, pairs) / peak)

    def save_checkpoint() -> None:
        saver.wait()  # one copy of the state at a time, besides the engine's
        state = engine.state()  # every rank takes part in gathering it
        # Gradients may be no numbers where the loss still is one: that shows in the weights first.
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise RunError(
                f"step {at.steps}: the weights are no longer finite",
                do="lower learning_rate, or try precision: fp32, in a new output; the last checkpoint is from before",
            )
        if ranks.rank == 0:
            saver.save(at.steps, state, at.to_json(), also_keep=at.best_step if config.keep_best else None)

    def finish_saving() -> None:
        """Before all ranks end: the launcher ends the others when the first one has ended."""
        saver.wait()
        ranks.barrier()

    tally = None
    with (
        StopRequest() as stop,
        Saver(folder.checkpoints, config.checkpoint.keep) as saver,
        progress("step", total_steps, quiet=ranks.rank != 0, start=at.steps) as show,
    ):
        while at.steps < total_steps and not (config.early_stopping and at.not_better >= config.early_stopping):
            begun = time.perf_counter()
            # Whatever is random in a step follows from the seed and the step, so a resumed run repeats it exactly.
            torch.manual_seed(np.random.SeedSequence([config.seed, at.steps, ranks.rank]).generate_state(1)[0])
            chosen = data.train[stream.step(at.steps)]
            engine.train()
            assignment = assign_to_ranks(chosen, data.corpus.lengths, ranks.world)
            micro_batches = assignment.micro_batches(ranks.rank, micro_tokens)
            loss_sum, correct = accumulate(engine, data.corpus, micro_batches, chosen, ranks.device)
            pulse(f"step {at.steps + 1}", waiting=ranks.world > 1)
            learning_rate = config.learning_rate_at(at.steps, total_steps)
            engine.step(learning_rate)

            # Waits for the device and for every rank, once a step; the signals travel along, so that all stop together.
            loss_total, correct_total, interrupted, terminated = ranks.sum(
                [loss_sum.item(), correct.item(), stop.signal == 2, stop.signal == 15]
            )
            took = time.perf_counter() - begun
            at.steps += 1
            at.pairs += len(chosen)
            at.seconds += took
            if not math.isfinite(loss_total):
                finish_saving()
                raise not_finite(loss_total, at.steps, chosen, data, source, folder, ranks)
            recent.add(loss_total, correct_total, len(chosen), int(assignment.tokens.sum()), took)
            if metrics is not None:
                metrics.add(
                    at.steps,
                    **recent.last(),
                    learning_rate=learning_rate,
                    **({"imbalance": assignment.imbalance} if ranks.world > 1 else {}),
                    **engine.figures(),
                )
            show(at.steps, str(recent))

            last = at.steps == total_steps
            better = False
            if len(data.evaluation) and (last or at.steps % eval_every == 0):
                tally = evaluate(engine, ranks, data, source.config.labels)
                better = at.evaluated(tally.accuracy)
                say(f"step {at.steps}: held-out accuracy {tally.accuracy:.4f}, loss {tally.loss:.4f}")
                if metrics is not None:
                    metrics.add(at.steps, eval_accuracy=tally.accuracy, eval_loss=tally.loss)
            stopping = (interrupted or terminated) and not last
            due = at.steps % config.checkpoint.every_steps == 0 or (better and config.keep_best)
            if last or stopping or due:
                save_checkpoint()
            if stopping:
                finish_saving()
                raise Interrupted(
                    2 if interrupted else 15,
                    f"stopped after step {at.steps} of {total_steps}; a checkpoint is in {folder.checkpoints}",
                    do="the same command goes on from it",
                )

    if at.steps < total_steps:
        say(f"stopped early: {at.not_better} evaluations in a row were no better than that of step {at.best_step}")
    if config.keep_best and at.best_step not in (0, at.steps):
        ranks.barrier()  # the first rank has written it
        engine.load_state(checkpoint.read(folder.checkpoints, at.best_step).state, at.best_step)
        tally = None
    if tally is None and len(data.evaluation):  # also where the run was killed between its last step and this line
        tally = evaluate(engine, ranks, data, source.config.labels)
    weights = engine.weights()
    summary = {
        "output": str(folder.path),
        "model": str(folder.model),
        "steps": at.steps,
        "pairs_per_second": at.pairs / at.seconds,
        "precision": precision,
        "ranks": ranks.world,
        **({"best_step": at.best_step} if config.keep_best else {}),
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
        pulse("training")
        # A rank without pairs of its own still takes part in the step, with a pair that counts nothing.
        counted = float(len(indices) > 0)
        indices = indices if counted else chosen[:1]
        labels = send(torch.from_numpy(corpus.labels[indices].astype(np.int64)), device)
        logits = engine(*to_device(pack(corpus, indices), device)).float()
        loss = F.cross_entropy(logits, labels, reduction="sum") * counted
        engine.backward(loss / len(chosen))
        loss_sum += loss.detach()
        correct += (logits.argmax(dim=1) == labels).sum() * counted
    return loss_sum, correct


def not_finite(
    loss: float,
    step: int,
    chosen: Indices,
    data: TrainingData,
    source: Pretrained,
    folder: RunFolder,
    ranks: Ranks,
) -> RunError:
    """The error for a loss that is no number; the first rank sets the step's pairs aside for a look."""
    aside = folder.path / f"loss-{loss}-at-step-{step}.jsonl"
    if ranks.rank == 0:
        write_text(aside, "".join(json.dumps(row) + "\n" for row in data.rows(chosen, source)))
    return RunError(
        f"step {step}: the loss is {loss}; its {len(chosen)} pairs are in {aside}",
        do="look at them; lower learning_rate, or try precision: fp32. The last checkpoint is from before",
    )


@torch.no_grad()
def evaluate(engine: Engine, ranks: Ranks, data: TrainingData, labels: tuple[str, ...]) -> ClassificationMetrics:
    """Every evaluation pair once, shared out over the ranks, summed over exactly all of them."""
    engine.eval()
    tally = ClassificationMetrics(labels)
    corpus, indices = data.evaluation_corpus, data.evaluation
    batches = batches_by_length(corpus.lengths[indices], MAX_TOKENS[ranks.device.type])
    rounds = math.ceil(len(batches) / ranks.world)  # under ZeRO-3 every rank must run the model equally often
    for number in range(ranks.rank, rounds * ranks.world, ranks.world):
        pulse("evaluation")
        mine = indices[batches[number % len(batches)]]
        logits = engine(*to_device(pack(corpus, mine), ranks.device)).float().cpu().numpy()
        if number < len(batches):
            tally.add(logits, corpus.labels[mine].astype(np.int64))
    return ClassificationMetrics.from_vector(labels, np.asarray(ranks.sum(tally.as_vector().tolist())))
