"""A DeepSpeed configuration in a run file's keys, so that one written for other trainers runs as it is.

`translate` splits it: what a key of the run file says too (`optimizer.params.lr` is learning_rate), what DeepSpeed
itself gets, and what has no use here. The value "auto" leaves a key to bertnli, as it leaves one to transformers'
Trainer (its documentation, "DeepSpeed").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from bertnli.common.errors import InputError
from bertnli.run.deepspeed_keys import REMOVED, dotted_names, is_on, mistake, nested, walk
from bertnli.run.mistakes import Contradiction

if TYPE_CHECKING:
    from bertnli.run.config import RunConfig

# DeepSpeed's keys, each with the run file's key that says the same. If two say one key, the later one holds: a
# scheduler of DeepSpeed sets the learning rate over the optimizer's.
SAME = {
    "gradient_clipping": "max_grad_norm",
    "train_batch_size": "global_batch_size",
    "zero_optimization.stage": "zero_stage",
    "optimizer.params.lr": "learning_rate",
    "optimizer.params.betas": "betas",
    "optimizer.params.eps": "eps",
    "optimizer.params.weight_decay": "weight_decay",
    "scheduler.params.warmup_max_lr": "learning_rate",
    "scheduler.params.warmup_num_steps": "warmup_steps",
    "scheduler.params.warmup_type": "warmup_type",
    "scheduler.params.total_num_steps": "max_steps",
}
SCHEDULES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
_TYPES = {"optimizer": ("AdamW", "Adam"), "scheduler": tuple(SCHEDULES)}  # DeepSpeed's Adam is AdamW, too
_INSTEAD = {"max_steps": "epochs", "warmup_steps": "warmup"}  # a run file has one of the two


class OneWay(NamedTuple):
    """A key with the values that are bertnli's way already. why: what that way is. refused: another value is an error;
    otherwise it is only told, as it is about speed or memory, or makes a small difference."""

    values: tuple[Any, ...]
    why: str
    refused: bool = False


_TORCH = "AdamW is torch's own"
_AUTOCAST = "bf16 is torch.autocast, with weights in fp32"
_BY_TOKENS = "micro-batches are cut by tokens (micro_batch_tokens)"
_FROM_0 = "the learning rate rises from 0"
ONE_WAY = {
    "bf16.bf16_master_weights_and_grads": OneWay((False,), _AUTOCAST, refused=True),
    "bf16.bf16_optimizer_states": OneWay((False,), _AUTOCAST, refused=True),
    "bf16.check_grad_overflow": OneWay((True,), "a loss or weight that is not finite ends the run"),
    "bf16.immediate_grad_update": OneWay((False,), _AUTOCAST),
    "gradient_accumulation_steps": OneWay((None,), _BY_TOKENS),
    "optimizer.legacy_fusion": OneWay((False,), _TORCH),
    "optimizer.params.adam_w_mode": OneWay((True,), "weight decay is AdamW's", refused=True),
    "optimizer.params.amsgrad": OneWay((False,), "AdamW is the one of its paper", refused=True),
    "optimizer.params.bias_correction": OneWay((True,), "AdamW always corrects its means' bias"),
    "optimizer.params.fp32_optimizer_states": OneWay((True,), "they are always in fp32"),
    "optimizer.params.torch_adam": OneWay((True,), _TORCH),
    "scheduler.params.cos_min_ratio": OneWay((0, 0.0001), "the learning rate falls to 0", refused=True),
    "scheduler.params.last_batch_iteration": OneWay((-1,), "bertnli counts the steps", refused=True),
    "scheduler.params.warmup_min_lr": OneWay((0,), _FROM_0, refused=True),
    "scheduler.params.warmup_min_ratio": OneWay((0,), _FROM_0, refused=True),
    "steps_per_print": OneWay((None,), "bertnli shows its steps itself"),
    "train_micro_batch_size_per_gpu": OneWay((None,), _BY_TOKENS),
    # stage_1_and_2.py, _link_all_hp_params: its map from weights to ranks does not know the new order.
    "zero_optimization.round_robin_gradients": OneWay((False,), "DeepSpeed's state of a weight is another's with it"),
}
_AUTO_OF_DEEPSPEED = "data_types.keep_in_fp32_modules"  # it knows that word there itself
_OVERLAP = "zero_optimization.overlap_comm"
_BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


class Told(NamedTuple):
    """A value for a key of the run file. by, said: the DeepSpeed key that says it, and how. fills_only: if the run file
    has another, that is no contradiction."""

    value: Any
    by: str
    said: Any
    fills_only: bool = False


@dataclass
class Translation:
    """told: by the run file's key. rest: what DeepSpeed itself gets. unused: why, by DeepSpeed's key. by_ranks: whether
    the pairs of a step follow from the number of ranks."""

    told: dict[str, Told] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    mistakes: list[InputError] = field(default_factory=list)
    by_ranks: bool = False


def translate(settings: Mapping[str, Any], ranks: int | None = None, zero_stage: Any = None) -> Translation:
    """What `settings`, a DeepSpeed configuration, says.

    ranks: of the job; None if they are not known yet, and then a number of pairs that follows from them is left out.
    zero_stage: the run file's own, if it has one.
    """
    found = Translation(mistakes=list(dotted_names(settings)))
    given: dict[str, Any] = {}  # the keys (dotted) that have values
    wrong: tuple[str, ...] = ()
    for key, value in walk(_of_known_types(settings, found)):
        if key.startswith(wrong):
            continue
        if error := mistake(key, value):
            found.mistakes.append(error)
            wrong = (*wrong, f"{key}.")
        elif not isinstance(value, Mapping):
            given[key] = value
    undecided = {key: given.pop(key) for key in ("fp16.enabled", "bf16.enabled") if given.get(key) == "auto"}
    kept = {
        key: given[key] for key in ("data_types.keep_in_fp32_modules",) if key in given
    }  # its "auto" is DeepSpeed's
    given = {key: value for key, value in given.items() if value != "auto"} | kept
    _translate_pairs(given, ranks, found)
    _translate_precision(given, undecided, found)
    for key, ours in SAME.items():
        if key in given:
            if ours in found.told and found.told[ours].value != given[key]:
                found.unused[found.told[ours].by] = f"{key.rpartition('.')[2]} holds, as in DeepSpeed"
            found.told[ours] = Told(given[key], key, given.pop(key))
    if "scheduler.type" in given:
        kind = given.pop("scheduler.type")
        found.told["schedule"] = Told(SCHEDULES[kind], "scheduler.type", kind)
        found.told.setdefault("warmup_type", Told("log", "scheduler.type", kind, fills_only=True))  # of all three
    given.pop("optimizer.type", None)
    stage = found.told["zero_stage"].value if zero_stage is None and "zero_stage" in found.told else zero_stage
    if stage not in (2, 3) and given.pop(_OVERLAP, False) is True:  # at other stages it fails during set-up
        found.unused[_OVERLAP] = "it needs zero_stage 2 or 3"
    for key, (values, why, refused) in ONE_WAY.items():
        value = given.pop(key, values[0])
        if value not in values and refused:
            found.mistakes.append(InputError(f"deepspeed.{key}: {value!r} cannot be used here: {why}", do="remove it"))
        elif value not in values:
            found.unused[key] = why
    found.rest = nested(given | undecided)
    return found


def _of_known_types(settings: Mapping[str, Any], found: Translation) -> dict[str, Any]:
    """`settings` without what bertnli or DeepSpeed does not have: optimizers, schedulers and keys of older versions,
    each of which is a mistake, unless it is off."""
    known = {"bf16" if key == "bfloat16" else key: value for key, value in settings.items()}
    if {"bf16", "bfloat16"} <= settings.keys():
        error = InputError("deepspeed.bf16 and deepspeed.bfloat16 are the same section", do="remove one of them")
        found.mistakes.append(error)
    for key in REMOVED.split():
        if key in known and is_on(key, known.pop(key)):
            error = InputError(f"deepspeed.{key}: cannot be used here: DeepSpeed no longer has it", do="remove it")
            found.mistakes.append(error)
    for section, types in _TYPES.items():
        kind = known[section].get("type", "auto") if isinstance(known.get(section), Mapping) else "auto"
        named = next((name for name in (*types, "auto") if str(kind).lower() == name.lower()), None)
        if named is None:
            del known[section]
            error = InputError(
                f"deepspeed.{section}.type: {kind}", expected=" or ".join(types), do="change or remove it"
            )
            found.mistakes.append(error)
        elif named != "auto":
            known[section] = {**known[section], "type": named}
    return known


def _translate_pairs(given: dict[str, Any], ranks: int | None, found: Translation) -> None:
    """The pairs of a step: DeepSpeed takes them from train_batch_size or from the other two and the ranks.

    Without train_batch_size, gradient_accumulation_steps is 1 in DeepSpeed if it is left out.
    """
    for key in _BATCH:
        if not isinstance(given.get(key, 1), int) or given.get(key, 1) < 1:
            error = InputError(f"deepspeed.{key}", found=repr(given.pop(key)), expected="a whole number from 1")
            found.mistakes.append(error)
    whole, micro, steps = (given.get(key) for key in _BATCH)
    if micro is None:
        return
    by, one_step = " x ".join((*_BATCH[1:], "ranks")), micro * (steps or 1)
    if whole is None:
        for key in _BATCH[1:]:
            given.pop(key, None)
        found.by_ranks = True
        if ranks is not None:
            said = f"{micro} x {steps or 1} x {ranks}"
            found.told["global_batch_size"] = Told(one_step * ranks, by, said, fills_only=steps is None)
    elif steps is not None and (whole % one_step or ranks not in (None, whole // one_step)):
        error = InputError(
            f"deepspeed.train_batch_size: {whole} is not {by}",
            found=f"{micro} x {steps} x {ranks or 'a number of'} ranks",
            do="remove gradient_accumulation_steps",
        )
        found.mistakes.append(error)


def _translate_precision(given: dict[str, Any], undecided: Mapping[str, Any], found: Translation) -> None:
    """`precision`, from `enabled` in fp16, bf16 and torch_autocast.

    What is off stays, as what is "auto": the device may decide otherwise, which is refused (deepspeed_config.py).
    """
    enabled = {name: given.get(f"{name}.enabled") for name in ("fp16", "bf16", "torch_autocast")}
    for name, state in enabled.items():
        if not isinstance(state, bool | None):
            del given[f"{name}.enabled"]
            error = InputError(f"deepspeed.{name}.enabled", found=repr(state), expected='true, false or "auto"')
            found.mistakes.append(error)
    if enabled.pop("torch_autocast") is True and given.get("torch_autocast.dtype") in _BF16:
        found.told["precision"] = Told("bf16", "torch_autocast.enabled", "true")
        for key in ("torch_autocast.enabled", "torch_autocast.dtype"):
            given.pop(key, None)
    on = [name for name, state in enabled.items() if state is True]
    off = [name for name, state in enabled.items() if state is False]
    if len(on) == 2:
        error = InputError("deepspeed.fp16.enabled and deepspeed.bf16.enabled are both true", do="remove one of them")
        found.mistakes.append(error)
    for name in on:
        del given[f"{name}.enabled"]
        found.told["precision"] = Told(name, f"{name}.enabled", "true")
    if off and not undecided:
        found.told.setdefault("precision", Told("fp32", f"{off[0]}.enabled", "false", fills_only=True))
    if given.get("torch_autocast.enabled") is False:
        for key in [key for key in given if key.startswith("torch_autocast.")]:
            del given[key]


_BF16 = (None, "bfloat16", "torch.bfloat16")  # how DeepSpeed writes that dtype


def fill(content: Mapping[str, Any], told: Mapping[str, Told]) -> dict[str, Any]:
    """What `told` says where a run file's `content` says nothing."""
    return {key: value.value for key, value in told.items() if _named(content, key) is None}


def _named(content: Mapping[str, Any], key: str) -> str | None:
    """The key by which a run file says what `key` does: that one, or the one in its stead; None if it has neither."""
    names = (key, _INSTEAD.get(key, key))
    return next((name for name in names if content.get(name) is not None), None)


def clashes(content: Mapping[str, Any], config: RunConfig, told: Mapping[str, Told]) -> Iterator[Contradiction]:
    """Where a run file says other than `told`. config: with the values of its `content`."""
    for key, (value, by, said, fills_only) in told.items():
        name = _named(content, key)
        if name is None or fills_only or (name == key and _equal(getattr(config, key), value)):
            continue
        error = f"deepspeed.{by}: {said} contradicts {name}: {getattr(config, name)}"
        do = f"remove one of the two: --set deepspeed.{by.partition(' x ')[0]}=auto leaves it to the run file"
        yield Contradiction((name,), InputError(error, do=do))


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, (int, float)):
        return math.isclose(ours, theirs, rel_tol=1e-9)
    return bool(ours == (tuple(theirs) if isinstance(theirs, list) else theirs))


def told_lines(name: str, filled: Mapping[str, Any], unused: Mapping[str, str]) -> list[str]:
    """What a user should know. name: of the file, or `deepspeed`. filled: the run file's keys that it filled."""
    sets = ", ".join(f"{key}: {value}" for key, value in filled.items())
    why = "; ".join(f"{key} ({reason})" for key, reason in unused.items())
    return [f"{name} sets {sets}"] * bool(sets) + [f"{name}: no use here for {why}"] * bool(why)
