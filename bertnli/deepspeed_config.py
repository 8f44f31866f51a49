"""DeepSpeed's configuration for a run: ours, with what the run file's `deepspeed:` adds, and no contradictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertnli.config import RunConfig
from bertnli.errors import InputError


def deepspeed_config(config: RunConfig, precision: str, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a run: ours, with the run file's `deepspeed:` merged over it.

    Raises InputError where the user's part sets a key that ours has set already, naming both.
    """
    if config.global_batch_size < world:
        raise InputError(
            "global_batch_size",
            found=f"{config.global_batch_size} pairs for {world} ranks",
            expected="a pair a rank or more",
        )
    ours: dict[str, Any] = {
        # A step's micro-batches are cut by tokens, so their number varies: we say when a step ends, not a counter.
        "managed_gradient_accumulation": False,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "steps_per_print": None,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,  # torch's own AdamW
    }
    if config.zero_stage == 1:
        ours["zero_optimization"]["overlap_comm"] = False  # it cannot go with step ends that we choose
    if precision == "bf16":
        # Products in bf16, weights and gradients' sums in fp32: what `torch.autocast` does, under every ZeRO stage.
        ours["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if precision == "fp16":
        ours["fp16"] = {"enabled": True}
    set_by = {
        "train_micro_batch_size_per_gpu": "global_batch_size and micro_batch_tokens",
        "gradient_accumulation_steps": "global_batch_size and micro_batch_tokens",
        "gradient_clipping": "max_grad_norm",
        "zero_optimization.stage": "zero_stage",
        "torch_autocast.enabled": "precision",
        "torch_autocast.dtype": "precision",
        "fp16.enabled": "precision",
    }
    elsewhere = {
        "train_batch_size": "global_batch_size",
        "bf16": "precision",
        "bfloat16": "precision",
        "fp16": "precision" if precision != "fp16" else "",
        "torch_autocast": "precision" if precision != "bf16" else "",
        "optimizer": "learning_rate and weight_decay",
        "scheduler": "learning_rate, schedule and warmup",
    }
    for key, run_key in elsewhere.items():
        if run_key and key in config.deepspeed:
            raise InputError(f"deepspeed.{key} contradicts the run file's {run_key}", do=f"remove one; use {run_key}")
    return _merge(ours, config.deepspeed, set_by)


def _merge(
    ours: dict[str, Any], theirs: Mapping[str, Any], set_by: Mapping[str, str], path: str = ""
) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in theirs.items():
        name = f"{path}{key}"
        if isinstance(value, Mapping) and isinstance(ours.get(key), dict):
            merged[key] = _merge(ours[key], value, set_by, f"{name}.")
        elif key in ours and ours[key] != value:
            by = set_by.get(name, "bertnli itself")
            raise InputError(
                f"deepspeed.{name}: {value!r} contradicts {ours[key]!r}, set by {by}",
                do="remove it, or change that key",
            )
        else:
            merged[key] = value
    return merged
