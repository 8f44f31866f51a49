"""DeepSpeed configurations as other projects have them: their keys and values, each with its source."""

from __future__ import annotations

from typing import Any

SCALER = {"loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2, "min_loss_scale": 1}
AUTO_ADAMW = {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")}
AUTO_WARMUP = {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": "auto"}
AUTO_BATCH = dict.fromkeys(
    ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto"
)
CPU = {"device": "cpu", "pin_memory": True}

# transformers, tests/deepspeed/ds_config_zero2.json, to which its documentation refers
TRANSFORMERS_ZERO2: dict[str, Any] = {
    "fp16": {"enabled": "auto", **SCALER},
    "bf16": {"enabled": "auto"},
    "optimizer": AUTO_ADAMW,
    "scheduler": {"type": "WarmupLR", "params": AUTO_WARMUP},
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": CPU,
        "allgather_partitions": True,
        "allgather_bucket_size": 2e8,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 2e8,
        "contiguous_gradients": True,
    },
    **AUTO_BATCH,
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
}

# transformers, docs/source/en/deepspeed.md, "ZeRO-3" and the notebook's file
TRANSFORMERS_ZERO3: dict[str, Any] = {
    "fp16": {"enabled": "auto", **SCALER},
    "optimizer": AUTO_ADAMW,
    "scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto", **AUTO_WARMUP}},
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": CPU,
        "offload_param": CPU,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    **AUTO_BATCH,
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
}

# transformers, docs/source/en/deepspeed.md, "ZeRO-2": a section alone
TRANSFORMERS_ZERO2_SECTION: dict[str, Any] = {
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": CPU,
        "allgather_partitions": True,
        "allgather_bucket_size": 5e8,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 5e8,
        "contiguous_gradients": True,
        "round_robin_gradients": True,
    }
}

# transformers, tests/deepspeed/ds_config_zero3.json of 2021, without fp16 as a CPU has none
TRANSFORMERS_ZERO3_VALUES: dict[str, Any] = {
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": CPU,
        "offload_param": CPU,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e14,
        "reduce_bucket_size": 0,
        "stage3_prefetch_bucket_size": 0,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_fp16_weights_on_model_save": True,
    },
    "optimizer": {"type": "AdamW", "params": {"lr": 3e-5, "betas": [0.8, 0.999], "eps": 1e-8, "weight_decay": 3e-7}},
    "scheduler": {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": 0, "warmup_max_lr": 3e-5, "warmup_num_steps": 500},
    },
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
}

# DeepSpeedExamples, training/BingBertSquad/deepspeed_bsz24_config.json
BING_BERT_SQUAD: dict[str, Any] = {
    "train_batch_size": 24,
    "train_micro_batch_size_per_gpu": 3,
    "steps_per_print": 10,
    "optimizer": {"type": "Adam", "params": {"lr": 3e-5, "weight_decay": 0.0, "bias_correction": False}},
    "gradient_clipping": 1.0,
    "fp16": {"enabled": True},
}


def hello_deepspeed(dtype: str = "bf16", batch_size: int = 8) -> dict[str, Any]:
    """DeepSpeedExamples, training/HelloDeepSpeed/train_bert_ds.py."""
    return {
        "train_micro_batch_size_per_gpu": batch_size,
        "optimizer": {"type": "Adam", "params": {"lr": 1e-4}},
        dtype: {"enabled": True},
        "zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}},
    }


def cifar(dtype: str = "fp32", stage: int = 0) -> dict[str, Any]:
    """DeepSpeedExamples, training/cifar/cifar10_deepspeed.py."""
    return {
        "train_batch_size": 16,
        "steps_per_print": 2000,
        "optimizer": {
            "type": "Adam",
            "params": {"lr": 0.001, "betas": [0.8, 0.999], "eps": 1e-8, "weight_decay": 3e-7},
        },
        "scheduler": {
            "type": "WarmupLR",
            "params": {"warmup_min_lr": 0, "warmup_max_lr": 0.001, "warmup_num_steps": 1000},
        },
        "gradient_clipping": 1.0,
        "prescale_gradients": False,
        "bf16": {"enabled": dtype == "bf16"},
        "fp16": {
            "enabled": dtype == "fp16",
            "fp16_master_weights_and_grads": False,
            "loss_scale": 0,
            "loss_scale_window": 500,
            "hysteresis": 2,
            "min_loss_scale": 1,
            "initial_scale_power": 15,
        },
        "wall_clock_breakdown": False,
        "zero_optimization": {
            "stage": stage,
            "allgather_partitions": True,
            "reduce_scatter": True,
            "allgather_bucket_size": 50000000,
            "reduce_bucket_size": 50000000,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "cpu_offload": False,
        },
    }


# DeepSpeedExamples, training/bf16_master_weight/configs/baseline.json
BF16_BASELINE: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 1,
    "steps_per_print": 100,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}},
    "bf16": {"enabled": True},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": 5e7,
        "stage3_param_persistence_threshold": 0,
    },
    "torch_autocast": {"enabled": False},
}

# DeepSpeedExamples, training/autotuning/hf/dsconfigs/ds_config_fp16_z3.json
AUTOTUNING_FP16_ZERO3: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": "auto",
    "zero_optimization": {"stage": 3},
    "fp16": {"enabled": True},
}
