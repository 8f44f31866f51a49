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
from bertnli.data.batches import Indices, Stream, batches_by_length, pack
from bertnli.data.outputs import Outputs
from bertnli.evaluation.evaluate_numbers import NumberMetrics, metrics_for
from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.model.attention import EVAL_BATCH_TOKENS, to_device
from bertnli.model.compiled import can_compile, compile_blocks
from bertnli.model.pretrained import Pretrained
from bertnli.run.config import RunConfig
from bertnli.run.deepspeed_config import deepspeed_config
from bertnli.run.folder import RunFolder
from bertnli.run.loss_config import LOWER_IS_BETTER
from bertnli.train import checkpoint
from bertnli.train.checkpoint import Saver, TrainerState
from bertnli.train.class_weights import class_weights
from bertnli.train.engine import Engine, ProcessGroup, parse_settings
from bertnli.train.evaluations import Tallies, deciding, evaluation_figures, in_summary, in_words
from bertnli.train.flops import matmul_peak, needed_flop
from bertnli.train.inputs import AnyCorpus, EvaluationSet, TrainingData, check_names, load_data, load_starting_model
from bertnli.train.losses import CROSS_ENTROPY, Loss
from bertnli.train.metrics_log import MetricsLog, RecentSteps, check_installed
from bertnli.train.micro_batch_size import CPU_TOKENS, fitting_tokens, free_memory, gpu_is_full, measure_on_gpu
from bertnli.train.next_command import next_command
from bertnli.train.parameter_groups import check_depths, freeze
from bertnli.train.pending_sum import PendingSum
from bertnli.train.precision import resolve_precision
from bertnli.train.result import write_result
from bertnli.train.steps import SoftLabels, Step, Steps
from bertnli.train.teacher import open_teacher, teacher_labels

STEPS_AHEAD = {"cpu": 0, "cuda": 1}
"""Steps that the host launches before it reads the sums of an earlier one. A CPU computes them at once."""


def train(config: RunConfig, group: ProcessGroup, say: Callable[[str], None]) -> dict[str, Any]:
    """Fine-tune as `config` says; every rank of the job calls it. `say` prints a line for the user.

    Returns the summary that `--json` prints. Raises InputError before the work starts, RunError after that, and
    Interrupted when SIGINT or SIGTERM asked to stop and a checkpoint was saved.
    """
    folder = RunFolder(config.output)
    try:
        return _train(config, folder, group, say)
    except torch.OutOfMemoryError as error:
        raise gpu_is_full(error, group.rank, "end what else runs on it") from None
    finally:
        folder.release()


def _train(config: RunConfig, folder: RunFolder, group: ProcessGroup, say: Callable[[str], None]) -> dict[str, Any]:
    """All of `train` except releasing the folder's lock."""
    with group.agree():  # every rank has also checked the folder before one of them writes into it
        folder.check(config)
        precision = resolve_precision(config.precision, group.device)
        settings = deepspeed_config(config, precision, group.world, parse_settings)
        check_names(config)
        if group.rank == 0:
            check_installed(config)
        source = load_starting_model(config)
        check_depths(config, source.config)
        data = load_data(config, source, say)
        outputs = source.config.outputs
        stream = Stream(len(data.train), config.global_batch_size, config.seed, data.parts)
        label_weights = class_weights(config.loss, outputs, lambda: data.corpus.labels[data.train[stream.epoch(0)]])
        teacher = open_teacher(config.teacher.model, outputs, group.device, say) if config.teacher else None
        total_steps = config.total_steps(stream.pairs_per_epoch)
        config.check_warmup(total_steps)
    with group.agree():
        if group.rank == 0:
            folder.claim(config, say)

    for note in source.notes:
        say(note)
    if source.revision is not None:
        say(f"{config.model}: commit {source.revision} on the model hub")
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # else it loads torch._dynamo for nothing
        torch.use_deterministic_algorithms(config.deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # memory is written first
    torch.manual_seed(config.seed)
    soft_labels: SoftLabels | None = data.corpus.soft_labels
    taught_by = {"teacher": teacher.fingerprint} if teacher is not None else {}
    if teacher is not None:
        soft_labels = teacher_labels(teacher, config, data, group, say)
        teacher = None  # frees its memory, before the model takes its own
    model_config = source.config if config.dropout is None else source.config.with_dropout(config.dropout)
    model = source.build(model_config)
    model.gradient_checkpointing = config.gradient_checkpointing
    if (left_to_train := freeze(model, config.frozen_blocks)) is not None:
        say(left_to_train)
    loss_function = Loss.of(outputs, config.loss, label_weights, config.teacher)
    if label_weights is not None:
        weighed = zip(outputs.names, label_weights, strict=True)
        say("weights of the labels: " + ", ".join(f"{name} {weight:.4g}" for name, weight in weighed))
    peaks: dict[int, int] = {}
    if config.micro_batch_tokens is None and group.device.type == "cuda":
        peaks = measure_on_gpu(model, loss_function, data.corpus, data.train, precision, group.device)
    if config.compile and group.device.type == "cuda":
        if can_compile():
            compile_blocks(model)
        else:
            say("compile: auto: torch has no Triton for this GPU, so nothing is compiled")
    engine = Engine(model, settings, config, group)
    source = source.without_weights()  # the engine has its own

    eval_every = config.eval_every_steps or config.steps_per_epoch(stream.pairs_per_epoch)

    state = TrainerState(inputs={"model": source.sha256, **data.sha256, **taught_by})
    resumed = checkpoint.newest(folder.checkpoints, warn=say)
    if resumed is not None:
        with group.agree():
            folder.check_inputs(resumed.progress.get("inputs", {}), state.inputs)
        engine.load_state(resumed.state, resumed.steps)
        state = TrainerState.of(resumed.steps, {**resumed.progress, "inputs": state.inputs})
        resumed = None  # frees memory: it is as large as the engine's own state
        say(f"going on from step {state.steps} of {total_steps}")
    if group.sum([state.steps])[0] != state.steps * group.world:
        raise RunError(
            f"rank {group.rank} would continue from step {state.steps}, other ranks from another step",
            do=f"make sure that every host reads the same {folder.checkpoints}",
        )
    micro_tokens = config.micro_batch_tokens or CPU_TOKENS
    if peaks:
        fitting = fitting_tokens(peaks, free_memory(group.device) - engine.buffer_bytes)
        # As before, if it still fits: how a step is cut decides which random numbers its dropout takes.
        micro_tokens = int(min(group.gather(min(fitting, state.fitting_tokens or fitting))))
        state.fitting_tokens = micro_tokens
    # Without gradients a batch takes far less memory than in training.
    eval_tokens = min(EVAL_BATCH_TOKENS[group.device.type], max(micro_tokens, 2048))
    say(
        f"{len(data.train):,} pairs to train on, {data.to_evaluate:,} to evaluate on; {total_steps} steps of "
        f"{config.global_batch_size} pairs in micro-batches of up to {micro_tokens:,} tokens, {precision}, "
        f"ZeRO-{config.zero_stage}, {group.world} x {group.device.type}"
    )
    [peak] = group.sum([matmul_peak(model_config.hidden_size, model_config.intermediate_size, precision, group.device)])
    with group.agree():
        metrics = MetricsLog(folder, state.steps, config, say) if group.rank == 0 else None
    recent = RecentSteps(
        lambda tokens, pairs: needed_flop(model_config, tokens, pairs, config.frozen_blocks) / peak,
        counted=loss_function.counted,
    )

    def save_checkpoint() -> None:
        saver.wait()  # so that there is only one copy of the state besides the engine's
        tensors = engine.state()  # every rank takes part in gathering it
        # Gradients can be NaN while the loss is still finite; then the weights show it first.
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise RunError(
                f"step {state.steps}: the weights are no longer finite",
                do="lower learning_rate, or try precision: fp32, in a new output; the last checkpoint is finite",
            )
        if group.rank == 0:
            saver.save(state.steps, tensors, state.to_json(), also_keep=state.best_step if config.keep_best else None)

    def finish_saving() -> None:
        """Called by all ranks before they end: a launcher kills the other ranks when the first one ends."""
        saver.wait()
        if metrics is not None:
            metrics.close(finished=False)
        group.barrier()

    def make_step(number: int) -> Step:
        pairs = data.train[stream.step(number)]
        return Step.of(data.corpus, pairs, group.rank, group.world, micro_tokens, group.device, soft_labels)

    launched: deque[LaunchedStep] = deque()
    clock = time.perf_counter()  # when the step before the next one to be finished was over

    def finish_step() -> int:
        """Wait for the sums of the first step in `launched` and report them. Returns the signal to stop, or 0.

        Signals are summed over the ranks too, so that all of them stop after the same step.
        """
        nonlocal clock
        step = launched.popleft()
        (loss, counted, *by_source, interrupted, terminated), over = step.sums.read()
        took, clock = over - clock, over
        pairs, assignment = step.step.pairs, step.step.assignment
        state.pairs += len(pairs)
        state.seconds += took
        if not math.isfinite(loss):
            finish_saving()
            raise non_finite_loss(loss, step.number, pairs, data, source, folder, group)
        recent.add(loss, counted, len(pairs), int(assignment.tokens.sum()), took)
        if metrics is not None:
            metrics.add(
                step.number,
                **recent.last(),
                **data.losses_by_source(pairs, by_source),
                learning_rate=step.learning_rate,
                **({"imbalance": assignment.imbalance} if group.world > 1 else {}),
                **step.loss_scale,
            )
        show(step.number, str(recent))
        return signal.SIGINT if interrupted else signal.SIGTERM if terminated else 0

    tallies: Tallies = {}
    ahead = STEPS_AHEAD[group.device.type]
    with (
        metrics or nullcontext(),
        StopRequest() as stop,
        Saver(folder.checkpoints, config.checkpoint.keep) as saver,
        progress("step", total_steps, quiet=group.rank != 0, start=state.steps) as show,
        Steps(make_step, group.device, ahead=ahead > 0) as steps,
    ):
        while state.steps < total_steps and not (config.early_stopping and state.not_better >= config.early_stopping):
            # All that is random in a step follows from seed, step and rank, so a resumed run repeats it exactly.
            torch.manual_seed(np.random.SeedSequence([config.seed, state.steps, group.rank]).generate_state(1)[0])
            step = steps[state.steps]
            engine.train()
            try:
                step_sums = accumulate(engine, step, loss_function)
            except torch.OutOfMemoryError as error:
                less = f"set micro_batch_tokens: {max(1, micro_tokens // 2)}"
                more = "" if config.gradient_checkpointing else " or gradient_checkpointing: true"
                raise gpu_is_full(error, group.rank, less + more) from None
            heartbeat.beat(f"step {state.steps + 1}", waiting=group.world > 1)
            learning_rate = config.learning_rate_at(state.steps, total_steps)
            engine.step(learning_rate)
            state.steps += 1
            sums = group.start_sum(step_sums, [stop.signal == signal.SIGINT, stop.signal == signal.SIGTERM])
            launched.append(LaunchedStep(state.steps, step, learning_rate, engine.loss_scale_metrics(), sums))

            # The one wait of a step for the device and for every rank. On a GPU it is for the step before this one, so
            # that this one is computed while the next is launched; before anything is saved or evaluated, for all.
            last = state.steps == total_steps
            evaluating = len(data.evaluations) > 0 and (last or state.steps % eval_every == 0)
            due = state.steps % config.checkpoint.every_steps == 0
            stopping = 0
            while launched and (last or evaluating or due or stopping or len(launched) > ahead):
                stopping = finish_step() or stopping
            if last:
                stopping = 0

            if evaluating:
                tallies = evaluate_all(engine, group, data, outputs, loss_function, eval_tokens)
                name, figure = deciding(tallies, config)
                better = state.record_evaluation(figure, lower_is_better=name in LOWER_IS_BETTER)
                due = due or (better and config.keep_best)
                for line in in_words(tallies, config):
                    say(f"step {state.steps}: held-out {line}")
                if metrics is not None:
                    metrics.add(state.steps, **evaluation_figures(tallies, config))
            if last or stopping or due:
                save_checkpoint()
            if stopping:
                finish_saving()
                raise Interrupted(
                    stopping,
                    f"stopped after step {state.steps} of {total_steps}; a checkpoint is in {folder.checkpoints}",
                    do="the same command continues from it",
                )
            if not launched:
                clock = time.perf_counter()  # evaluation and checkpoints are not part of a step's time

    if state.steps < total_steps:
        say(f"stopped early: {state.not_better} evaluations in a row were not better than step {state.best_step}'s")
    if config.keep_best and state.best_step not in (0, state.steps):
        group.barrier()  # the first rank has written that checkpoint
        engine.load_state(checkpoint.read(folder.checkpoints, state.best_step).state, state.best_step)
        tallies = {}
    if data.evaluations and not tallies:  # also if the run was killed between its last step and this line
        tallies = evaluate_all(engine, group, data, outputs, loss_function, eval_tokens)
    weights = engine.weights()
    summary = {
        "output": str(folder.path),
        "model": str(folder.model),
        "steps": state.steps,
        "pairs_per_second": state.pairs / state.seconds,
        "precision": precision,
        "ranks": group.world,
        **({"best_step": state.best_step} if config.keep_best else {}),
        **in_summary(tallies, config),
        "rows_by_label": data.rows_by_label,
        **({"teacher": {**config.teacher.model_dump(), "sha256": taught_by["teacher"]}} if config.teacher else {}),
        **({"sources": table} if (table := data.table()) else {}),
        "next": next_command(str(folder.model), source.config.labels, config),
    }
    if metrics is not None:
        metrics.close()
        of_sets = {data.evaluations[name].name: one for name, one in tallies.items()}
        write_result(folder, config, source, weights, of_sets, summary)
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


def evaluate_all(
    engine: Engine, group: ProcessGroup, data: TrainingData, outputs: Outputs, loss_function: Loss, batch_tokens: int
) -> Tallies:
    return {
        name: evaluate(engine, group, one, outputs, loss_function, batch_tokens)
        for name, one in data.evaluations.items()
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
