"""What a run has before its first step: data, weights, the engine, and where it goes on. Read it from top to bottom.

Everything that a user can have wrong is checked first, on all ranks, before one of them writes into the run's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bertnli.common.errors import RunError
from bertnli.data.batches import Stream
from bertnli.data.outputs import Outputs
from bertnli.model.attention import EVAL_BATCH_TOKENS
from bertnli.model.classifier import PairClassifier
from bertnli.model.compiled import can_compile, compile_blocks
from bertnli.model.pretrained import Pretrained
from bertnli.run.config import RunConfig
from bertnli.run.deepspeed_config import deepspeed_config
from bertnli.run.folder import RunFolder
from bertnli.train import checkpoint
from bertnli.train.checkpoint import TrainerState
from bertnli.train.class_weights import class_weights
from bertnli.train.engine import Engine, ProcessGroup, parse_settings
from bertnli.train.flops import matmul_peak, needed_flop
from bertnli.train.inputs import TrainingData, check_names, load_data, load_starting_model
from bertnli.train.losses import Loss
from bertnli.train.metrics_log import MetricsLog, RecentSteps, check_installed
from bertnli.train.micro_batch_size import CPU_TOKENS, fitting_tokens, free_memory, measure_on_gpu
from bertnli.train.parameter_groups import check_depths, freeze
from bertnli.train.precision import resolve_precision
from bertnli.train.steps import SoftLabels, Step
from bertnli.train.teacher import open_teacher, teacher_labels

Say = Callable[[str], None]


@dataclass
class Setup:
    """A run, ready for its next step.

    source: the starting model, without its weights, which the engine has. soft_labels: of the file or of a teacher.
    teacher_sha256: see `Teacher`. micro_tokens, eval_tokens: tokens of a micro-batch, and of one without gradients.
    metrics: on the first rank alone.
    """

    config: RunConfig
    folder: RunFolder
    group: ProcessGroup
    say: Say
    precision: str
    source: Pretrained
    data: TrainingData
    stream: Stream
    loss: Loss
    soft_labels: SoftLabels | None
    teacher_sha256: str | None
    total_steps: int
    engine: Engine
    state: TrainerState
    micro_tokens: int
    eval_tokens: int
    metrics: MetricsLog | None
    recent: RecentSteps

    @property
    def outputs(self) -> Outputs:
        return self.source.config.outputs

    @property
    def eval_every(self) -> int:
        """Steps from one evaluation to the next."""
        return self.config.eval_every_steps or self.config.steps_per_epoch(self.stream.pairs_per_epoch)

    def step(self, number: int) -> Step:
        """This rank's part of the optimizer step `number`, counted from 0."""
        pairs, group = self.data.train[self.stream.step(number)], self.group
        tokens, soft = self.micro_tokens, self.soft_labels
        return Step.of(self.data.corpus, pairs, group.rank, group.world, tokens, group.device, soft)


def set_up(config: RunConfig, folder: RunFolder, group: ProcessGroup, say: Say) -> Setup:
    """Check and load all that a run needs; every rank calls it. It holds the folder's lock then.

    Raises InputError for what the user has wrong, and RunError for what fails later, as a checkpoint that differs
    between the ranks.
    """
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
    inputs = {"model": source.sha256, **data.sha256, **({"teacher": teacher.inputs} if teacher else {})}
    teacher_sha256 = teacher.sha256 if teacher is not None else None
    soft_labels: SoftLabels | None = data.corpus.soft_labels
    if teacher is not None:
        soft_labels = teacher_labels(teacher, config, data, group, say)
        teacher = None  # frees its memory, before the model takes its own
    model = _model(config, source, say)
    loss = Loss.of(outputs, config.loss, label_weights, config.teacher)
    if label_weights is not None:
        weighed = zip(outputs.names, label_weights, strict=True)
        say("weights of the labels: " + ", ".join(f"{name} {weight:.4g}" for name, weight in weighed))
    peaks: dict[int, int] = {}
    if config.micro_batch_tokens is None and group.device.type == "cuda":
        peaks = measure_on_gpu(model, loss, data.corpus, data.train, precision, group.device)
    if config.compile and group.device.type == "cuda":
        if can_compile():
            compile_blocks(model)
        else:
            say("compile: auto: torch has no Triton for this GPU, so nothing is compiled")
    engine = Engine(model, settings, config, group)
    source = source.without_weights()  # the engine has its own

    state = _resumed(engine, folder, group, inputs, total_steps, say)
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
    sizes = model.config
    [peak] = group.sum([matmul_peak(sizes.hidden_size, sizes.intermediate_size, precision, group.device)])
    with group.agree():
        metrics = MetricsLog(folder, state.steps, config, say) if group.rank == 0 else None
    recent = RecentSteps(
        lambda tokens, pairs: needed_flop(sizes, tokens, pairs, config.frozen_blocks) / peak, counted=loss.counted
    )
    return Setup(
        config=config,
        folder=folder,
        group=group,
        say=say,
        precision=precision,
        source=source,
        data=data,
        stream=stream,
        loss=loss,
        soft_labels=soft_labels,
        teacher_sha256=teacher_sha256,
        total_steps=total_steps,
        engine=engine,
        state=state,
        micro_tokens=micro_tokens,
        eval_tokens=eval_tokens,
        metrics=metrics,
        recent=recent,
    )


def _model(config: RunConfig, source: Pretrained, say: Say) -> PairClassifier:
    model = source.build(source.config if config.dropout is None else source.config.with_dropout(config.dropout))
    model.gradient_checkpointing = config.gradient_checkpointing
    if (left_to_train := freeze(model, config.frozen_blocks)) is not None:
        say(left_to_train)
    return model


def _resumed(
    engine: Engine, folder: RunFolder, group: ProcessGroup, inputs: dict[str, str], total_steps: int, say: Say
) -> TrainerState:
    """The state of a new run, or that of the newest checkpoint, which the engine then has as well.

    inputs: what the run trains on, which may not have changed since (`RunFolder.check_inputs`).
    """
    state = TrainerState(inputs=inputs)
    resumed = checkpoint.newest(folder.checkpoints, warn=say)
    if resumed is not None:
        with group.agree():
            folder.check_inputs(resumed.progress.get("inputs", {}), inputs)
        engine.load_state(resumed.state, resumed.steps)
        state = TrainerState.of(resumed.steps, {**resumed.progress, "inputs": inputs})
        say(f"going on from step {state.steps} of {total_steps}")
    if group.sum([state.steps])[0] != state.steps * group.world:
        raise RunError(
            f"rank {group.rank} would continue from step {state.steps}, other ranks from another step",
            do=f"make sure that every host reads the same {folder.checkpoints}",
        )
    return state
