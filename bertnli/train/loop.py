"""Fine-tuning, from the run file to the model folder. Read it from top to bottom.

Started by `bertnli train RUN.yaml`, or for each rank by a launcher: `deepspeed --module bertnli.train RUN.yaml`.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bertnli.common import heartbeat
from bertnli.common.errors import Interrupted, RunError
from bertnli.common.files import write_text
from bertnli.common.progress import progress
from bertnli.common.signals import StopRequest
from bertnli.data.batches import Indices, batches_by_length, pack
from bertnli.data.outputs import Outputs
from bertnli.evaluation.evaluate_numbers import NumberMetrics, metrics_for
from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.model.attention import to_device
from bertnli.model.pretrained import Pretrained
from bertnli.run.config import RunConfig
from bertnli.run.folder import RunFolder
from bertnli.run.loss_config import LOWER_IS_BETTER
from bertnli.train import checkpoint
from bertnli.train.checkpoint import Saver, TrainerState
from bertnli.train.engine import Engine, ProcessGroup
from bertnli.train.evaluations import Tallies, deciding, evaluation_figures, in_summary, in_words
from bertnli.train.inputs import AnyCorpus, EvaluationSet, TrainingData
from bertnli.train.losses import CROSS_ENTROPY, Loss
from bertnli.train.micro_batch_size import gpu_is_full
from bertnli.train.next_command import next_command
from bertnli.train.pending_sum import PendingSum
from bertnli.train.result import write_result
from bertnli.train.setup import Setup, set_up
from bertnli.train.steps import Step, Steps

STEPS_AHEAD = {"cpu": 0, "cuda": 1}
"""Steps that the host launches before it reads the sums of an earlier one. A CPU computes them at once."""


def train(config: RunConfig, group: ProcessGroup, say: Callable[[str], None]) -> dict[str, Any]:
    """Fine-tune as `config` says; every rank of the job calls it. `say` prints a line for the user.

    Returns the summary that `--json` prints. Raises InputError before the work starts, RunError after that, and
    Interrupted when SIGINT or SIGTERM asked to stop and a checkpoint was saved.
    """
    folder = RunFolder(config.output)
    try:
        return _train(set_up(config, folder, group, say))
    except torch.OutOfMemoryError as error:
        raise gpu_is_full(error, group.rank, "end what else runs on it") from None
    finally:
        folder.release()


def _train(run: Setup) -> dict[str, Any]:
    """All steps that are left, and the result."""
    folder, keep = run.folder, run.config.checkpoint.keep
    with (
        run.metrics or nullcontext(),
        StopRequest() as stop,
        Saver(folder.checkpoints, keep) as saver,
        progress("step", run.total_steps, quiet=run.group.rank != 0, start=run.state.steps) as show,
        Steps(run.step, run.group.device, ahead=STEPS_AHEAD[run.group.device.type] > 0) as steps,
    ):
        loop = Loop(run, stop, saver, show, steps)
        loop.take_steps()
    return _result(run, loop.tallies)


class Loop:
    """The steps of a run, from the next one on. tallies: of the last evaluation; {} before the first one."""

    def __init__(
        self, run: Setup, stop: StopRequest, saver: Saver, show: Callable[[int, str], None], steps: Steps
    ) -> None:
        self._run, self._stop, self._saver, self._show, self._steps = run, stop, saver, show, steps
        self._launched: deque[LaunchedStep] = deque()
        self._clock = time.perf_counter()  # when the step before the next one to be finished was over
        self.tallies: Tallies = {}

    def take_steps(self) -> None:
        """Raises Interrupted if SIGINT or SIGTERM asked to stop and a checkpoint was saved."""
        run, config, state = self._run, self._run.config, self._run.state
        ahead = STEPS_AHEAD[run.group.device.type]
        while state.steps < run.total_steps and not run_is_over(config, state):
            self._launch()
            # The one wait of a step for the device and for every rank. On a GPU it is for the step before this one, so
            # that this one is computed while the next is launched; before anything is saved or evaluated, for all.
            last = state.steps == run.total_steps
            evaluating = len(run.data.evaluations) > 0 and (last or state.steps % run.eval_every == 0)
            due = state.steps % config.checkpoint.every_steps == 0
            stopping = 0
            while self._launched and (last or evaluating or due or stopping or len(self._launched) > ahead):
                stopping = self._finish_step() or stopping
            if last:
                stopping = 0

            if evaluating:
                due = self._evaluate() or due
            if last or stopping or due:
                self._save_checkpoint()
            if stopping:
                self._finish_saving()
                raise Interrupted(
                    stopping,
                    f"stopped after step {state.steps} of {run.total_steps}; "
                    f"a checkpoint is in {run.folder.checkpoints}",
                    do="the same command continues from it",
                )
            if not self._launched:
                self._clock = time.perf_counter()  # evaluation and checkpoints are not part of a step's time

    def _launch(self) -> None:
        """Start the next step, and count it as taken."""
        run, config, group, state = self._run, self._run.config, self._run.group, self._run.state
        # All that is random in a step follows from seed, step and rank, so a resumed run repeats it exactly.
        torch.manual_seed(np.random.SeedSequence([config.seed, state.steps, group.rank]).generate_state(1)[0])
        step = self._steps[state.steps]
        run.engine.train()
        try:
            step_sums = accumulate(run.engine, step, run.loss)
        except torch.OutOfMemoryError as error:
            less = f"set micro_batch_tokens: {max(1, run.micro_tokens // 2)}"
            more = "" if config.gradient_checkpointing else " or gradient_checkpointing: true"
            raise gpu_is_full(error, group.rank, less + more) from None
        heartbeat.beat(f"step {state.steps + 1}", waiting=group.world > 1)
        learning_rate = config.learning_rate_at(state.steps, run.total_steps)
        run.engine.step(learning_rate)
        state.steps += 1
        signals = [self._stop.signal == signal.SIGINT, self._stop.signal == signal.SIGTERM]
        sums = group.start_sum(step_sums, signals)
        scale = run.engine.loss_scale_metrics()
        self._launched.append(LaunchedStep(state.steps, step, learning_rate, scale, sums))

    def _finish_step(self) -> int:
        """Wait for the sums of the first step that was launched and report them. Returns the signal to stop, or 0.

        Signals are summed over the ranks too, so that all of them stop after the same step.
        """
        run, step = self._run, self._launched.popleft()
        (loss, counted, *by_source, interrupted, terminated), over = step.sums.read()
        took, self._clock = over - self._clock, over
        pairs, assignment = step.step.pairs, step.step.assignment
        run.state.pairs += len(pairs)
        run.state.seconds += took
        if not math.isfinite(loss):
            self._finish_saving()
            raise non_finite_loss(loss, step.number, pairs, run.data, run.source, run.folder, run.group)
        run.recent.add(loss, counted, len(pairs), int(assignment.tokens.sum()), took)
        if run.metrics is not None:
            run.metrics.add(
                step.number,
                **run.recent.last(),
                **run.data.losses_by_source(pairs, by_source),
                learning_rate=step.learning_rate,
                **({"imbalance": assignment.imbalance} if run.group.world > 1 else {}),
                **step.loss_scale,
            )
        self._show(step.number, str(run.recent))
        return signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0

    def _evaluate(self) -> bool:
        """Returns whether the model is to be saved, as it is the best one."""
        run, state = self._run, self._run.state
        self.tallies = evaluate_all(run)
        name, figure = deciding(self.tallies, run.config)
        better = state.record_evaluation(figure, lower_is_better=name in LOWER_IS_BETTER)
        for line in in_words(self.tallies, run.config):
            run.say(f"step {state.steps}: held-out {line}")
        if run.metrics is not None:
            run.metrics.add(state.steps, **evaluation_figures(self.tallies, run.config))
        return better and run.config.keep_best

    def _save_checkpoint(self) -> None:
        run, state = self._run, self._run.state
        self._saver.wait()  # so that there is only one copy of the state besides the engine's
        tensors = run.engine.state()  # every rank takes part in gathering it
        # Gradients can be NaN while the loss is still finite; then the weights show it first.
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise RunError(
                f"step {state.steps}: the weights are no longer finite",
                do="lower learning_rate, or try precision: fp32, in a new output; the last checkpoint is finite",
            )
        if run.group.rank == 0:
            best = state.best_step if run.config.keep_best else None
            self._saver.save(state.steps, tensors, state.to_json(), also_keep=best)

    def _finish_saving(self) -> None:
        """Called by all ranks before they end: a launcher kills the other ranks when the first one ends."""
        self._saver.wait()
        if self._run.metrics is not None:
            self._run.metrics.close(finished=False)
        self._run.group.barrier()


def run_is_over(config: RunConfig, state: TrainerState) -> bool:
    """Whether early_stopping ends it."""
    return config.early_stopping is not None and state.not_better >= config.early_stopping


def _result(run: Setup, tallies: Tallies) -> dict[str, Any]:
    """Write the report and the model, the last or the best one. Returns the summary."""
    config, folder, group, state, engine = run.config, run.folder, run.group, run.state, run.engine
    if state.steps < run.total_steps:
        run.say(f"stopped early: {state.not_better} evaluations in a row were not better than step {state.best_step}'s")
    if config.keep_best and state.best_step not in (0, state.steps):
        group.barrier()  # the first rank has written that checkpoint
        engine.load_state(checkpoint.read(folder.checkpoints, state.best_step).state, state.best_step)
        tallies = {}
    if run.data.evaluations and not tallies:  # also if the run was killed between its last step and this line
        tallies = evaluate_all(run)
    weights = engine.weights()
    of_labels, table = run.loss.weights, run.data.table()
    summary = {
        "output": str(folder.path),
        "model": str(folder.model),
        "steps": state.steps,
        "pairs_per_second": state.pairs / state.seconds,
        "precision": run.precision,
        "ranks": group.world,
        **({"best_step": state.best_step} if config.keep_best else {}),
        **in_summary(tallies, config),
        "rows_by_label": run.data.rows_by_label,
        **({"teacher": {**config.teacher.model_dump(), "sha256": run.teacher_sha256}} if config.teacher else {}),
        **({"label_weights": dict(zip(run.outputs.names, of_labels, strict=True))} if of_labels else {}),
        **({"sources": table} if table else {}),
        "next": next_command(str(folder.model), run.source.config.labels, config),
    }
    if run.metrics is not None:
        run.metrics.close()
        of_sets = {run.data.evaluations[name].name: one for name, one in tallies.items()}
        write_result(folder, config, run.source, weights, of_sets, summary)
    group.barrier()
    return summary


@dataclass(frozen=True)
class LaunchedStep:
    """A step that a GPU may still be computing. number: counted from 1. sums: loss, what is counted beside it,
    SIGINT and SIGTERM, over all ranks."""

    number: int
    step: Step
    learning_rate: float
    loss_scale: dict[str, float]
    sums: PendingSum


def accumulate(engine: Engine, step: Step, loss_function: Loss = CROSS_ENTROPY) -> torch.Tensor:
    """Add the gradients of this rank's micro-batches to those of the step.

    Each micro-batch's summed loss is divided by the number of pairs in the whole step, not in the micro-batch. So the
    sum over micro-batches and ranks is the gradient of the step's mean loss, however it is cut. Returns this rank's
    summed loss, what the loss function counts, and the summed loss of each of several sources, `[2 + sources]`, still
    on the device.
    """
    sums, pairs_per_weight = [], loss_function.pairs_per_weight(step.labels)
    for micro_batch in step.micro_batches:
        heartbeat.beat("training")
        logits = engine(*micro_batch.inputs).float()
        loss, counted = loss_function(logits, micro_batch.labels, micro_batch.soft, pairs_per_weight)
        loss = loss * float(micro_batch.counts)
        engine.backward(loss / len(step.pairs))
        of_sources = [
            loss_function(logits.detach()[places], *micro_batch.targets(places), pairs_per_weight)[0]
            * float(micro_batch.counts)
            for places in micro_batch.by_source
        ]
        sums.append(torch.stack([loss.detach(), counted * micro_batch.counts, *of_sources]))
    return torch.stack(sums).sum(dim=0)


def non_finite_loss(
    loss: float,
    step: int,
    chosen: Indices,
    data: TrainingData,
    source: Pretrained,
    folder: RunFolder,
    group: ProcessGroup,
) -> RunError:
    """The error for a loss that is NaN or infinite; the first rank writes the step's pairs to a file for inspection."""
    inspect = folder.path / f"loss-{loss}-at-step-{step}.jsonl"
    if group.rank == 0:
        write_text(inspect, "".join(json.dumps(row) + "\n" for row in data.rows(chosen, source)))
    return RunError(
        f"step {step}: the loss is {loss}; its {len(chosen)} pairs are in {inspect}",
        do="look at them; lower learning_rate, or try precision: fp32. The last checkpoint is from an earlier step",
    )


def evaluate_all(run: Setup) -> Tallies:
    return {
        name: evaluate(run.engine, run.group, one, run.outputs, run.loss, run.eval_tokens)
        for name, one in run.data.evaluations.items()
    }


@torch.no_grad()
def evaluate(
    engine: Engine, group: ProcessGroup, data: EvaluationSet, outputs: Outputs, loss_function: Loss, batch_tokens: int
) -> ClassificationMetrics | NumberMetrics:
    """The metrics of all pairs of a set: each pair is evaluated once, on one of the ranks."""
    corpus, indices = data.corpus, data.pairs
    scored = scored_here(engine, group, corpus, indices, batch_tokens)
    if loss_function.kind == "cross_entropy":
        tally = ClassificationMetrics(outputs.names)
        for places, logits in scored:
            tally.add(logits, corpus.labels[indices[places]].astype(np.int64))
        return ClassificationMetrics.from_vector(outputs.names, np.asarray(group.sum(tally.as_vector().tolist())))
    every = np.zeros((len(indices), len(outputs.names)))  # other ranks' pairs are 0 here, so that the sum has all
    for places, logits in scored:
        every[places] = logits
    metrics = metrics_for(outputs, loss_function.kind)
    metrics.add(
        np.asarray(group.sum(every.ravel().tolist())).reshape(every.shape), corpus.labels[indices].astype(np.float64)
    )
    return metrics


def scored_here(
    engine: Engine, group: ProcessGroup, corpus: AnyCorpus, indices: Indices, batch_tokens: int
) -> Iterator[tuple[Indices, NDArray[np.float32]]]:
    """The logits of this rank's batches of the pairs at `indices`, each with their places in `indices`."""
    engine.eval()
    batches = batches_by_length(corpus.lengths[indices], batch_tokens)
    rounds = math.ceil(len(batches) / group.world)  # ZeRO-3: every rank must run the model equally often
    for number in range(group.rank, rounds * group.world, group.world):
        heartbeat.beat("evaluation")
        places = batches[number % len(batches)]
        logits = engine(*to_device(pack(corpus, indices[places]), group.device)).float().cpu().numpy()
        if number < len(batches):
            yield places, logits
