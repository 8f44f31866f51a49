"""DeepSpeed's configuration for a run: ours, with what the run file's `deepspeed:` adds, and no contradictions.

DeepSpeed ignores unknown keys and modes that do not go together; it fails on others only after the weights are loaded,
and trains wrongly with a few. Here each is an InputError that says what works instead: `contradictions` finds those of
the run file alone, `deepspeed_config` those that depend on the device and the number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bertnli.common.errors import InputError
from bertnli.run.deepspeed_keys import is_section, nested, walk
from bertnli.run.mistakes import Contradiction, refuse

if TYPE_CHECKING:
    from bertnli.run.config import RunConfig

# Keys whose value is set by keys of the run file.
DECIDED_BY = {
    "checkpoint": "checkpoint",
    "data_types.param_dtype": "precision",
    "datastates_ckpt": "checkpoint",
}

# Modes that do not work here: why, and the nearest alternative that does.
_DATA_PARALLEL = "each rank runs the whole model on pairs of its own", "for a large model set zero_stage: 3"
_OWN_BATCHES = "bertnli makes the batches", "use global_batch_size and data.max_train_pairs"
_NO_EXTENSION = "it needs a compiled extension, and bertnli builds none"
_OFFLOAD = "set offload_optimizer: {device: cpu}"
NOT_HERE = {
    "activation_checkpointing": ("bertnli has a key of its own for it", "set gradient_checkpointing: true"),
    "aio": (_NO_EXTENSION, "offload to device: cpu"),
    "autotuning": ("it starts jobs with batches of its own", "try values of micro_batch_tokens"),
    "compile": ("DeepCompile ends steps by its own count", "remove it"),
    "data_efficiency": _OWN_BATCHES,
    "dataloader_drop_last": _OWN_BATCHES,
    "disable_allgather": ("DeepSpeed does nothing with it", "remove it"),
    "expert_parallel": _DATA_PARALLEL,
    "fp16.fp16_master_weights_and_grads": (_NO_EXTENSION, "remove it"),
    "hybrid_engine": ("it is for models that generate text", "remove it"),
    "pipeline": _DATA_PARALLEL,
    "seq_parallel_communication_data_type": _DATA_PARALLEL,
    "sequence_parallel_size": _DATA_PARALLEL,
    "tensor_parallel": _DATA_PARALLEL,
    "use_data_before_expert_parallelism": _DATA_PARALLEL,
    "vocabulary_size": ("DeepSpeed does nothing with it", "remove it"),
    "weight_quantization": ("it is for inference", "train, then: bertnli export --precision int8"),
    "zero_optimization.cpu_offload": ("an old name", _OFFLOAD),
    "zero_optimization.cpu_offload_param": ("an old name", "set offload_param: {device: cpu}"),
    "zero_optimization.cpu_offload_use_pin_memory": ("an old name", "set pin_memory in offload_optimizer"),
    "zero_optimization.elastic_checkpoint": ("bertnli's checkpoints go with any number of ranks anyway", "remove it"),
    "zero_optimization.legacy_stage1": ("DeepSpeed no longer has it", "set zero_stage: 1 alone"),
    "zero_optimization.offload_optimizer.ratio": (_NO_EXTENSION, "remove it: all of the optimizer is offloaded"),
    "zero_optimization.offload_optimizer.super_offload": (_NO_EXTENSION, "remove it"),
    "zero_optimization.zenflow": ("it needs an optimizer of its own", _OFFLOAD),
    "zero_optimization.zero_quantized_gradients": (
        _NO_EXTENSION,
        "remove it, or set communication_data_type: bf16",
    ),
    "zero_optimization.zero_quantized_nontrainable_weights": (_NO_EXTENSION, "remove it"),
    "zero_optimization.zero_quantized_weights": (_NO_EXTENSION, "remove it, or set zero_hpz_partition_size"),
}

# Modes that work with some ZeRO stages only. At other stages DeepSpeed ignores offload and hpz, and at stage 3 it
# divides by gradient_predivide_factor twice; the other modes fail during set-up.
STAGES = {
    "data_types.grad_accum_dtype": (1, 2, 3),
    "gradient_predivide_factor": (0, 1),
    "prescale_gradients": (0, 1),
    "zero_optimization.offload_optimizer": (1, 2, 3),
    "zero_optimization.offload_param": (3,),
    "zero_optimization.zero_hpz_partition_size": (3,),
}


def contradictions(config: RunConfig) -> Iterator[Contradiction]:
    """What is wrong with `deepspeed:` whatever the device and the number of ranks, at most one for each of its keys.

    Each error names the key, the run file's own key where one decides, and what to do.
    """
    ours = _ours(config)
    for key, value in walk(config.deepspeed):
        found = _contradiction(key, value, ours, config)
        if found is not None:
            yield found


def _contradiction(key: str, value: Any, ours: Mapping[str, Any], config: RunConfig) -> Contradiction | None:
    if key in ours:
        if ours[key] == value:
            return None
        error = InputError(
            f"deepspeed.{key}: {value!r} contradicts {ours[key]!r}, set by bertnli itself", do="remove it"
        )
        return Contradiction((), error)
    if key == f"{config.precision}.enabled" and value is False:
        error = InputError(f"deepspeed.{key}: false contradicts precision: {config.precision}", do="change one of them")
        return Contradiction(("precision",), error)
    if key in DECIDED_BY:
        error = InputError(f"deepspeed.{key} contradicts the run file's {DECIDED_BY[key]}", do="remove it")
        return Contradiction((), error)
    if key in NOT_HERE and _on(key, value):
        why, instead = NOT_HERE[key]
        return Contradiction((), InputError(f"deepspeed.{key}: cannot be used here: {why}", do=instead))
    if key in STAGES and config.zero_stage not in STAGES[key] and _on(key, value):
        nearest = min(STAGES[key], key=lambda stage: abs(stage - config.zero_stage))
        error = InputError(
            f"deepspeed.{key} does not go with zero_stage: {config.zero_stage}",
            do=f"set zero_stage: {nearest}, or remove it",
        )
        return Contradiction(("zero_stage",), error)
    if key.endswith(".device") and value == "nvme":
        error = InputError(f"deepspeed.{key}: nvme cannot be used here: {_NO_EXTENSION}", do="set device: cpu")
        return Contradiction((), error)
    clipped = config.max_grad_norm or config.zero_stage not in (1, 2)
    if key == "zero_optimization.compute_grad_norm" and value is False and clipped:
        error = InputError(
            f"deepspeed.{key}: false does not go with max_grad_norm: {config.max_grad_norm} and "
            f"zero_stage: {config.zero_stage}",
            do="set max_grad_norm: 0 and zero_stage: 1 or 2, or remove it",
        )
        return Contradiction(("max_grad_norm", "zero_stage"), error)
    return None


def deepspeed_config(
    config: RunConfig, precision: str, world: int, parse: Callable[[dict[str, Any]], object] | None = None
) -> dict[str, Any]:
    """DeepSpeed's configuration for a run whose precision is resolved, on `world` ranks.

    parse: DeepSpeed's own parser, which checks it before the weights are loaded. Raises InputError, with all that is
    wrong in it, where the run does not go with the device or the ranks, or DeepSpeed does not accept a value.
    """
    theirs = {key: value for key, value in walk(config.deepspeed) if not is_section(value)}
    ours = _ours(config)
    if precision == "bf16":
        # As `torch.autocast` does, at every ZeRO stage: products in bf16, weights and optimizer in fp32.
        ours |= {"torch_autocast.enabled": True, "torch_autocast.dtype": "bfloat16"}
        # Gradients are summed and sent in fp32, so that every stage trains the same; by default DeepSpeed rounds those
        # of linear layers to bf16 at stages 1 to 3, after every micro-batch.
        theirs.setdefault("torch_autocast.lower_precision_safe_modules", [])
    if precision == "fp16":
        ours |= {"fp16.enabled": True}
    # DeepSpeed's own throughput timer waits for the device before each forward pass and after each step.
    theirs.setdefault("timers.throughput.enabled", False)
    mistakes = [*_switched_off(config, precision, theirs), *_mistakes_here(config, precision, world, ours, theirs)]
    refuse(mistakes, "run file")
    settings = nested(ours | theirs)
    if parse is not None:
        _check_with(parse, settings)
    return settings


def _switched_off(config: RunConfig, precision: str, theirs: dict[str, Any]) -> Iterator[InputError]:
    """Take bf16's and fp16's keys out of `theirs` if that is off, or left to bertnli and not chosen. Yields a mistake
    for one that is off and chosen."""
    for name in ("bf16", "fp16"):
        enabled = theirs.get(f"{name}.enabled")
        if enabled is False and precision == name:
            yield InputError(
                f"deepspeed.{name}.enabled: false contradicts the run file's precision",
                found=f"precision: {config.precision}, so {precision} on this device",
                do="set precision to another one",
            )
        names = [key for key in theirs if key.startswith(f"{name}.")]
        for key in names if precision != name and enabled in (False, "auto") else [f"{name}.enabled"]:
            theirs.pop(key, None)


def _mistakes_here(
    config: RunConfig, precision: str, world: int, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[InputError]:
    """What does not go with this device and this number of ranks."""
    if config.global_batch_size < world:
        yield InputError(
            f"global_batch_size: {config.global_batch_size} does not go with {world} ranks",
            expected="a pair a rank or more",
            do=f"set global_batch_size: {world}, or start {config.global_batch_size} ranks",
        )
    for section, needed in (("fp16", "fp16"), ("torch_autocast", "bf16")):
        if precision != needed and any(key.startswith(f"{section}.") for key in theirs):
            yield InputError(
                f"deepspeed.{section} contradicts the run file's precision",
                found=f"precision: {config.precision}, so {precision} on this device",
                do=f"remove it, or set precision: {needed}",
            )
    # With bf16 they are sent in fp32.
    if precision == "bf16" and theirs.get("communication_data_type", "fp32") != "fp32" and config.zero_stage:
        yield InputError(
            "deepspeed.communication_data_type: DeepSpeed ignores it with precision: bf16 and "
            f"zero_stage: {config.zero_stage}",
            do="remove it; to send less set torch_autocast: {lower_precision_safe_modules: [torch.nn.Linear]}",
        )
    for key, value in theirs.items():
        if ours.get(key, value) != value:
            yield InputError(f"deepspeed.{key}: {value!r} contradicts precision: {precision}", do="remove it")
    group = theirs.get("zero_optimization.zero_hpz_partition_size", 1)
    if isinstance(group, int) and group > 1 and world % min(group, world):
        fitting = max(size for size in range(1, group) if world % size == 0)
        yield InputError(
            f"deepspeed.zero_optimization.zero_hpz_partition_size: {group} does not divide {world} ranks",
            do=f"set it to {fitting}",
        )


def _ours(config: RunConfig) -> dict[str, Any]:
    """The values that the loop and the run file set on any device, by dotted key."""
    return {
        # A step's micro-batches are cut by tokens, so their number varies: the loop ends a step, not a counter.
        "managed_gradient_accumulation": False,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_allreduce_op": "mean",
        "gradient_clipping": config.max_grad_norm,
        "steps_per_print": None,
        "zero_optimization.stage": config.zero_stage,
        "zero_allow_untested_optimizer": True,  # torch's own AdamW, offloaded or not: DeepSpeed's would be compiled
        "zero_force_ds_cpu_optimizer": False,
    }


def _check_with(parse: Callable[[dict[str, Any]], object], settings: dict[str, Any]) -> None:
    try:
        parse(settings)
    except ValidationError as error:
        refuse([_refused(problem, settings) for problem in error.errors()], "run file")
    except Exception as error:  # of any type; it is about what the user added, because ours alone is accepted
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            "deepspeed: DeepSpeed does not accept it", found=said, do="change or remove that key"
        ) from None


def _refused(problem: Any, settings: Mapping[str, Any]) -> InputError:
    """One of the errors of DeepSpeed's parser, which has a pydantic model for each section."""
    path = [str(part) for part in problem["loc"]]
    # The error does not contain the section's name in the file.
    holders = [name for name, value in settings.items() if path and is_section(value) and path[0] in value]
    path = path if not holders or path[0] in settings else [holders[0], *path]
    name = f"deepspeed.{'.'.join(path)}".rstrip(".")
    return InputError(name, found=repr(problem["input"]), expected=problem["msg"].lower())


def _on(key: str, value: Any) -> bool:
    """Whether a mode's value turns it on: a section's `enabled` or `device`, or else any key in it."""
    if is_section(value) and "offload" in key:
        value = value.get("device", "none")
    elif is_section(value):
        value = value.get("enabled", any(_on("", inner) for inner in value.values()))
    return value is True or value not in (None, False, "none", 1)
