"""The keys of a DeepSpeed configuration: which exist, and what their values must be. DeepSpeed ignores unknown ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from bertnli.common.errors import InputError
from bertnli.common.printable import shortened

# The keys that DeepSpeed 0.19 reads, by section; tests/run/test_deepspeed_config.py compares them with its parser.
# Sections that are not here are checked by that parser alone.
KNOWN_KEYS = {
    "": """
        activation_checkpointing aio autotuning bf16 bfloat16 checkpoint comet comms_logger communication_data_type
        compile csv_monitor data_efficiency data_types dataloader_drop_last datastates_ckpt disable_allgather
        disable_python_gc dump_state expert_parallel flops_profiler fp16 gradient_accumulation_steps
        gradient_allreduce_op gradient_clipping gradient_predivide_factor hybrid_engine log_level
        managed_gradient_accumulation memory_breakdown optimizer pipeline prescale_gradients scheduler
        seq_parallel_communication_data_type sequence_parallel_size steps_per_print tensor_parallel tensorboard timers
        torch_autocast train_batch_size train_micro_batch_size_per_gpu use_data_before_expert_parallelism
        vocabulary_size wall_clock_breakdown wandb weight_quantization zero_allow_untested_optimizer
        zero_force_ds_cpu_optimizer zero_optimization""",
    "bf16": """
        bf16_master_weights_and_grads bf16_optimizer_states check_grad_overflow enabled immediate_grad_update""",
    "data_types": "buffer_dtype grad_accum_dtype keep_in_fp32_modules param_dtype",
    "fp16": """
        auto_cast consecutive_hysteresis enabled fp16_master_weights_and_grads hysteresis initial_scale_power
        loss_scale loss_scale_window min_loss_scale""",
    "optimizer": "legacy_fusion params type",
    "optimizer.params": """
        adam_w_mode amsgrad betas bias_correction eps fp32_optimizer_states lr torch_adam weight_decay""",
    "scheduler": "params type",
    "scheduler.params": """
        cos_min_ratio last_batch_iteration total_num_steps warmup_max_lr warmup_min_lr warmup_min_ratio
        warmup_num_steps warmup_type""",
    "torch_autocast": "dtype enabled lower_precision_safe_modules",
    "zero_optimization": """
        allgather_bucket_size allgather_partitions allgather_sequential compute_grad_norm contiguous_gradients
        cpu_offload cpu_offload_param cpu_offload_use_pin_memory elastic_checkpoint enable_sanity_checks
        gather_16bit_weights_on_model_save ignore_unused_parameters leaf_module legacy_stage1 load_from_fp32_weights
        log_trace_cache_warnings max_live_parameters max_reuse_distance memory_efficient_linear
        model_persistence_threshold module_granularity_threshold offload_optimizer offload_param overlap_comm
        override_module_apply param_persistence_threshold parameter_alignment pipeline_loading_checkpoint
        prefetch_bucket_size reduce_bucket_size reduce_scatter round_robin_gradients
        save_muon_momentum_buffer_in_memory stage stage3_allgather_sequential
        stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save stage3_max_live_parameters
        stage3_max_reuse_distance stage3_model_persistence_threshold stage3_module_granularity_threshold
        stage3_param_persistence_threshold stage3_prefetch_bucket_size stage3_use_all_reduce_for_fetch_params
        sub_group_size use_all_reduce_for_fetch_params use_multi_rank_bucket_allreduce zenflow
        zero_hpz_partition_size zero_quantized_gradients zero_quantized_nontrainable_weights zero_quantized_weights""",
    "zero_optimization.offload_optimizer": """
        buffer_count cpuadam_cores_perc device fast_init nvme_path pin_memory pipeline_read pipeline_write ratio
        super_offload""",
    "zero_optimization.offload_param": "buffer_count buffer_size device max_in_cpu nvme_path pin_memory",
}

# Keys that take maps, besides the sections above. All others take one value: in a map it would be read by nobody.
MAPS = """
    activation_checkpointing aio autotuning checkpoint comet comms_logger compile csv_monitor data_efficiency
    datastates_ckpt expert_parallel flops_profiler hybrid_engine pipeline tensor_parallel tensorboard timers wandb
    weight_quantization zero_optimization.leaf_module zero_optimization.zenflow"""

# Keys that older versions of DeepSpeed have; 0.19 refuses each, on or off.
REMOVED = """
    amp compression_training curriculum_learning eigenvalue elasticity graph_harvesting nebula progressive_layer_drop
    quantize_training sparse_attention sparse_gradients"""

# Keys that take numbers. DeepSpeed's parser takes true for 1 there.
NUMBERS = """
    allgather_bucket_size buffer_count buffer_size cpuadam_cores_perc gradient_accumulation_steps gradient_clipping
    gradient_predivide_factor hysteresis initial_scale_power loss_scale loss_scale_window max_in_cpu
    max_live_parameters max_reuse_distance min_loss_scale model_persistence_threshold module_granularity_threshold
    param_persistence_threshold prefetch_bucket_size ratio reduce_bucket_size stage stage3_max_live_parameters
    stage3_max_reuse_distance stage3_model_persistence_threshold stage3_module_granularity_threshold
    stage3_param_persistence_threshold stage3_prefetch_bucket_size steps_per_print sub_group_size train_batch_size
    train_micro_batch_size_per_gpu zero_hpz_partition_size"""


def mistake(key: str, value: Any) -> InputError | None:
    """What is wrong with a key (dotted) and the kind of its value, whatever else is set; None for nothing. The value
    "auto" is of any kind."""
    section, _, name = key.rpartition(".")
    known = KNOWN_KEYS.get(section, "").split()
    if known and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        do = f"did you mean {near[0]}?" if near else "DeepSpeed reads no such key"
        return InputError(f"unknown key deepspeed.{key}", do=do)
    if key in KNOWN_KEYS and not is_section(value) and value != "auto":
        return InputError(f"deepspeed.{key}", found=repr(value), expected="a map of keys")
    if known and is_section(value) and key not in (*KNOWN_KEYS, *MAPS.split()):
        return InputError(f"deepspeed.{key}", found=shortened(repr(value), 80), expected="one value")
    if name in NUMBERS.split() and isinstance(value, bool):
        return InputError(f"deepspeed.{key}", found=repr(value), expected="a number")
    return None


def is_on(removed: str, value: Any) -> bool:
    """Whether a key of `REMOVED` turns its mode on."""
    if is_section(value) and removed != "sparse_attention":  # that one is on if it is there
        return any(key.rpartition(".")[2] == "enabled" and inner is True for key, inner in walk(value))
    return value not in (None, False, "auto", {})


def dotted_names(settings: Mapping[str, Any]) -> Iterator[InputError]:
    """An error for each name with a dot, which is how sections are told here, and which no key of DeepSpeed has."""
    for name, value in settings.items():
        if "." in name:
            do = "write a map for each part of it"
            yield InputError(f"unknown key {name!r} in deepspeed, as its name has a dot", do=do)
        if is_section(value):
            yield from dotted_names(value)


def is_section(value: Any) -> bool:
    return isinstance(value, Mapping)


def walk(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key (dotted) with its value; a section comes before the keys in it."""
    for name, value in settings.items():
        yield f"{prefix}{name}", value
        if is_section(value):
            yield from walk(value, f"{prefix}{name}.")


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of dotted keys and their values."""
    settings: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = settings
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return settings
