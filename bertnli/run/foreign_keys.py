"""Settings as other programs call them, and what to write in a run file instead.

transformers' TrainingArguments and example scripts, sentence-transformers' CrossEncoder, DeepSpeed's configuration.
docs/from_elsewhere.md shows these tables (docs/from_elsewhere.py makes it); tests compare them with the libraries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from bertnli.run.deepspeed_keys import KNOWN_KEYS


class Here(NamedTuple):
    """What serves in a run file. write: a line of YAML; VALUE in it is the other program's value, and … one of another
    kind. It is empty if no key is needed. note: what is different, or why no key is needed."""

    write: str = ""
    note: str = ""


_BATCH = Here("global_batch_size: …", "pairs of a step over all ranks: the number per device x devices x accumulation")
_NO_ACCUMULATION = Here(
    "global_batch_size: …", "a step is a number of pairs; how they are cut into micro-batches follows from the memory"
)
_EVAL_BATCH = Here("", "evaluation takes as many pairs at once as fit; no figure depends on it")
_BF16 = Here("precision: bf16", "auto, the default, takes it where the GPU has it")
_FP16 = Here("precision: fp16", "with DeepSpeed's loss scaler")
_SAME_EVALUATION = Here("", "evaluation is in the run's own precision")
_ONE_MODEL = Here("model: VALUE")
_TOKENIZER = Here("", "the tokenizer is the model folder's own")
_LENGTH = Here("max_length: VALUE", "tokens of a pair; no pair is padded")
_RATIO = Here("warmup: VALUE", "the fraction of the steps; warmup_steps is a number of them")
_EVALUATION = Here("eval_every_steps: …", "without it: after every epoch and at the end; data.eval names the rows")
_METRICS = Here("", "every step is in metrics.jsonl and in what report_to names")
_TERMINAL = Here("", "a terminal gets a progress bar and a log plain lines")
_PUSH = Here("", "the result is in OUTPUT/model; bertnli push OUTPUT ORG/NAME sends it to the hub")
_DATALOADER = Here("", "pairs are tokenised once and mapped into memory; there is no loader to set up")
_DDP = Here("", "DeepSpeed exchanges the gradients; deepspeed: {…} takes its keys")
_LAUNCHED = Here("", "bertnli launch, torchrun or the deepspeed launcher sets it")
_FSDP = Here("zero_stage: …", "0, 1, 2 or 3; 3 divides weights, gradients and optimizer over the ranks, as FSDP does")
_ADAMW = Here("", "the optimizer is AdamW: learning_rate, betas, eps and weight_decay")
_DEVICE = Here("", "the GPUs that there are, else the CPU; CUDA_VISIBLE_DEVICES= hides them")
_COLUMNS = Here("data: {columns: {premise: …}}", "with hypothesis and label likewise; usual names are found")
_TRACKIO = Here("report_to: …", "tensorboard, wandb or mlflow")
_RESUME = Here("", "the same command continues the run in its output folder")
_REMOTE_CODE = Here("", "code of a model folder is never run")

TRAINING_ARGUMENTS: dict[str, Here] = {
    "output_dir": Here("output: VALUE"),
    "overwrite_output_dir": Here("output: …", "a finished run is not overwritten; give another folder, or remove it"),
    "do_train": Here("", "bertnli train trains"),
    "do_eval": Here("data: {eval: …}", "a name, a path or {holdout: N}; bertnli eval measures a finished model"),
    "do_predict": Here("", "bertnli score scores a file with an exported model"),
    "num_train_epochs": Here("epochs: VALUE", "whole ones; for parts of an epoch give max_steps"),
    "per_device_train_batch_size": _BATCH,
    "per_gpu_train_batch_size": _BATCH,
    "per_device_eval_batch_size": _EVAL_BATCH,
    "per_gpu_eval_batch_size": _EVAL_BATCH,
    "auto_find_batch_size": Here("", "micro-batches are as large as the GPU's free memory allows"),
    "gradient_accumulation_steps": _NO_ACCUMULATION,
    "average_tokens_across_devices": Here("", "the loss is the mean over all pairs of a step, on any number of ranks"),
    "lr_scheduler_type": Here("schedule: …", "linear, cosine or constant; all begin with the warm-up"),
    "lr_scheduler_kwargs": Here("schedule: cosine", "to 0 at the end of the run; it has no other settings"),
    "warmup_ratio": _RATIO,
    "optim": _ADAMW,
    "optim_args": _ADAMW,
    "optim_target_modules": _ADAMW,
    "adafactor": _ADAMW,
    "adam_beta1": Here("betas: [VALUE, 0.999]", "both in one list"),
    "adam_beta2": Here("betas: [0.9, VALUE]", "both in one list"),
    "adam_epsilon": Here("eps: VALUE"),
    "label_smoothing_factor": Here("loss: {label_smoothing: VALUE}"),
    "bf16": _BF16,
    "fp16": _FP16,
    "half_precision_backend": _FP16,
    "fp16_backend": _FP16,
    "fp16_opt_level": _FP16,
    "bf16_full_eval": _SAME_EVALUATION,
    "fp16_full_eval": _SAME_EVALUATION,
    "tf32": Here("precision: bf16", "fp32 is computed as fp32"),
    "activation_checkpointing": Here("gradient_checkpointing: true"),
    "activation_checkpointing_kwargs": Here("gradient_checkpointing: true", "it has no other settings"),
    "gradient_checkpointing_kwargs": Here("gradient_checkpointing: true", "it has no other settings"),
    "torch_compile": Here("compile: auto", "on a GPU, the model's blocks"),
    "torch_compile_backend": Here("compile: auto"),
    "torch_compile_mode": Here("compile: auto"),
    "torchdynamo": Here("compile: auto"),
    "use_liger_kernel": Here("", "pairs are packed without padding, with attention of variable length"),
    "liger_kernel_config": Here(),
    "use_cache": Here("", "an encoder has no cache of keys and values"),
    "neftune_noise_alpha": Here("dropout: …", "there is no noise on embeddings"),
    "torch_empty_cache_steps": Here("micro_batch_tokens: …", "lower it if the GPU's memory is full"),
    "logging_strategy": _METRICS,
    "logging_steps": _METRICS,
    "logging_first_step": _METRICS,
    "logging_dir": Here("output: …", "TensorBoard's files are in OUTPUT/tensorboard"),
    "log_on_each_node": _TERMINAL,
    "logging_nan_inf_filter": Here("", "a loss that is not finite ends the run, with its pairs in a file"),
    "include_num_input_tokens_seen": Here("", "metrics.jsonl has tokens_per_second"),
    "include_tokens_per_second": Here("", "metrics.jsonl has tokens_per_second"),
    "log_level": _TERMINAL,
    "log_level_replica": _TERMINAL,
    "disable_tqdm": _TERMINAL,
    "tensorboard": Here("report_to: …", "none, or one or several of tensorboard, wandb, mlflow"),
    "run_name": Here("output: …", "the folder's name is the name of the run; WANDB_NAME and MLFLOW_RUN_NAME go first"),
    "project": Here("", "WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME in the environment name it"),
    "trackio_space_id": _TRACKIO,
    "trackio_bucket_id": _TRACKIO,
    "trackio_static_space_id": _TRACKIO,
    "eval_strategy": _EVALUATION,
    "evaluation_strategy": _EVALUATION,
    "eval_steps": Here("eval_every_steps: VALUE"),
    "evaluation_steps": Here("eval_every_steps: VALUE"),
    "eval_delay": _EVALUATION,
    "eval_on_start": Here("", "bertnli eval measures the starting model if it has a classifier"),
    "prediction_loss_only": Here("", "accuracy and loss are always measured"),
    "eval_do_concat_batches": _EVAL_BATCH,
    "eval_use_gather_object": _EVAL_BATCH,
    "eval_accumulation_steps": _EVAL_BATCH,
    "include_for_metrics": Here("metric_for_best: …", "the metrics that there are: docs/losses.md"),
    "include_inputs_for_metrics": Here("metric_for_best: …", "the metrics that there are: docs/losses.md"),
    "batch_eval_metrics": _EVAL_BATCH,
    "save_strategy": Here("checkpoint: {every_steps: …}", "in steps; keep_best saves the best one too"),
    "save_steps": Here("checkpoint: {every_steps: VALUE}"),
    "save_total_limit": Here("checkpoint: {keep: VALUE}"),
    "save_only_model": Here("checkpoint: {keep: …}", "checkpoints always have the optimizer; OUTPUT/model never has"),
    "save_safetensors": Here("", "weights are always safetensors"),
    "save_on_each_node": Here("", "rank 0 writes, into a folder that every host sees"),
    "enable_jit_checkpoint": Here("", "SIGTERM saves a checkpoint and ends the run with 143"),
    "push_to_hub": _PUSH,
    "hub_token": _PUSH,
    "hub_private_repo": _PUSH,
    "hub_model_id": _PUSH,
    "hub_strategy": _PUSH,
    "hub_always_push": _PUSH,
    "hub_revision": _PUSH,
    "load_best_model_at_end": Here("keep_best: true", "the result is the model of the best evaluation"),
    "metric_for_best_model": Here("metric_for_best: …", "without eval_; for the loss it is log_loss"),
    "greater_is_better": Here("metric_for_best: …", "the metric says it"),
    "early_stopping_patience": Here("early_stopping: VALUE", "evaluations in a row that were not better"),
    "early_stopping_threshold": Here("early_stopping: …", "any better figure counts"),
    "ignore_data_skip": _RESUME,
    "resume_from_checkpoint": _RESUME,
    "restore_callback_states_from_checkpoint": _RESUME,
    "full_determinism": Here("deterministic: true"),
    "data_seed": Here("seed: VALUE", "one seed for all that is random"),
    "use_cpu": _DEVICE,
    "no_cuda": _DEVICE,
    "use_mps_device": _DEVICE,
    "accelerator_config": Here("deepspeed: {…: …}", "DeepSpeed's own keys"),
    "parallelism_config": _FSDP,
    "dispatch_batches": _DATALOADER,
    "split_batches": _DATALOADER,
    "dataloader_drop_last": Here("", "no pair is dropped: the last step of an epoch may have fewer"),
    "dataloader_num_workers": _DATALOADER,
    "dataloader_pin_memory": _DATALOADER,
    "dataloader_persistent_workers": _DATALOADER,
    "dataloader_prefetch_factor": _DATALOADER,
    "dataloader_multiprocessing_context": _DATALOADER,
    "dataloader_in_order": _DATALOADER,
    "remove_unused_columns": Here("", "other columns are not read"),
    "label_names": Here("", "the Trainer's are names of inputs; data: {label_names: {…}} says what label cells mean"),
    "group_by_length": Here("", "pairs are packed without padding, so their order stays random"),
    "train_sampling_strategy": Here("", "each epoch is a new order by the seed, packed without padding"),
    "length_column_name": Here("", "pairs are packed without padding"),
    "ddp_find_unused_parameters": _DDP,
    "ddp_bucket_cap_mb": _DDP,
    "ddp_broadcast_buffers": _DDP,
    "ddp_static_graph": _DDP,
    "ddp_backend": Here("", "nccl on GPUs, gloo on CPUs"),
    "ddp_timeout": Here("stall_timeout: …", "seconds without progress of any rank"),
    "fsdp": _FSDP,
    "fsdp_config": _FSDP,
    "fsdp_min_num_params": _FSDP,
    "fsdp_transformer_layer_cls_to_wrap": _FSDP,
    "sharded_ddp": _FSDP,
    "debug": Here("", "bertnli --debug train shows the traceback of an error"),
    "skip_memory_metrics": Here(),
    "local_rank": _LAUNCHED,
    "tpu_num_cores": Here("", "GPUs and CPUs are used, no TPUs"),
    "past_index": Here("", "for models with a memory, which these are not"),
    "jit_mode_eval": Here("compile: auto"),
    "ray_scope": Here("", "there is no search of settings; give them one by one with --set"),
}
"""TrainingArguments' names, of transformers 5 and before. Those that are keys here too are not among them."""

SCRIPTS: dict[str, Here] = {
    "model_name_or_path": _ONE_MODEL,
    "model_name": _ONE_MODEL,
    "model_id": _ONE_MODEL,
    "pretrained_model_name_or_path": _ONE_MODEL,
    "model_revision": Here("model: …", "org/name@revision"),
    "config_name": Here("model: …", "the folder has its own config.json"),
    "tokenizer_name": _TOKENIZER,
    "use_fast_tokenizer": _TOKENIZER,
    "cache_dir": Here("", "BERTNLI_CACHE in the environment names it"),
    "overwrite_cache": Here("", "what is cached is known by the content of the file, so it is never stale"),
    "token": Here("", "HF_TOKEN in the environment"),
    "use_auth_token": Here("", "HF_TOKEN in the environment"),
    "trust_remote_code": _REMOTE_CODE,
    "ignore_mismatched_sizes": Here("labels: [entailment, neutral]", "other labels get a new classifier"),
    "num_labels": Here("labels: [entailment, neutral]", "their names; for one output problem_type: regression"),
    "id2label": Here("labels: [entailment, neutral]", "their names in the model's order"),
    "label2id": Here("labels: [entailment, neutral]", "their names in the model's order"),
    "do_regression": Here("problem_type: regression"),
    "task_name": Here("data: {train: …}", "a name of bertnli fetch --list, or a path"),
    "dataset_name": Here("data: {train: …}", "a name of bertnli fetch --list, or a path"),
    "dataset_config_name": Here("data: {train: …}", "hf:org/name:config:split"),
    "train_file": Here("data: {train: VALUE}"),
    "train_dataset": Here("data: {train: VALUE}", "a name or a path"),
    "validation_file": Here("data: {eval: VALUE}"),
    "eval_dataset": Here("data: {eval: VALUE}", "a name or a path"),
    "dev_file": Here("data: {eval: VALUE}"),
    "test_file": Here("", "bertnli eval MODEL FILE measures a finished model"),
    "train_split_name": Here("data: {train: …}", "a file for each split"),
    "validation_split_name": Here("data: {eval: …}", "a file for each split"),
    "text_column_names": _COLUMNS,
    "label_column_name": Here("data: {columns: {label: VALUE}}"),
    "sentence1_key": Here("data: {columns: {premise: …}}"),
    "sentence2_key": Here("data: {columns: {hypothesis: …}}"),
    "max_seq_length": _LENGTH,
    "max_seq_len": _LENGTH,
    "model_max_length": _LENGTH,
    "pad_to_max_length": Here("", "no pair is padded in training"),
    "max_train_samples": Here("data: {max_train_pairs: VALUE}"),
    "max_eval_samples": Here("data: {eval: {holdout: VALUE}}", "or a file with so many rows"),
    "max_predict_samples": Here("", "bertnli score reads all rows of the file"),
    "metric_name": Here("metric_for_best: …", "all metrics are measured; this one decides"),
    "shuffle_train_dataset": Here("seed: …", "each epoch is a new order by the seed"),
    "shuffle_seed": Here("seed: VALUE"),
    "preprocessing_num_workers": Here("", "as many as the cores allow"),
    "freeze_encoder": Here("freeze: …", "a number of blocks, the embeddings with them"),
    "freeze_layers": Here("freeze: …", "a number of blocks, the embeddings with them"),
    "freeze_embeddings": Here("freeze: embeddings"),
    "layerwise_learning_rate_decay": Here("layer_decay: VALUE"),
    "llrd": Here("layer_decay: VALUE"),
    "lr": Here("learning_rate: VALUE"),
    "num_epochs": Here("epochs: VALUE"),
    "max_epochs": Here("epochs: VALUE"),
    "num_training_steps": Here("max_steps: VALUE"),
    "max_train_steps": Here("max_steps: VALUE"),
    "num_warmup_steps": Here("warmup_steps: VALUE"),
    "batch_size": _BATCH,
    "train_batch_size": Here("global_batch_size: VALUE", "pairs of a step over all ranks"),
    "eval_batch_size": _EVAL_BATCH,
    "gradient_clip_val": Here("max_grad_norm: VALUE"),
    "accumulate_grad_batches": _NO_ACCUMULATION,
    "class_weight": Here("loss: {class_weights: balanced}", "or a map: loss: {class_weights: {entailment: 2}}"),
    "class_weights": Here("loss: {class_weights: balanced}", "or a map: loss: {class_weights: {entailment: 2}}"),
    "label_smoothing": Here("loss: {label_smoothing: VALUE}"),
    "pos_weight": Here("loss: {pos_weight: …}", "for independent labels"),
}
"""Names in transformers' and others' scripts (run_glue.py, run_classification.py, Lightning, accelerate)."""

CROSS_ENCODER: dict[str, Here] = {
    "prompts": Here("", "put the text into the rows"),
    "batch_sampler": Here("", "each epoch is a new order by the seed"),
    "multi_dataset_batch_sampler": Here(
        "data: {train: […, other.csv]}", "several are pooled; weight in a map says how often"
    ),
    "router_mapping": Here("", "a model reads a pair as one text, so it has no routes"),
    "learning_rate_mapping": Here("layer_decay: …", "each block's rate is the next one's times this factor"),
    "train_dataloader": Here("data: {train: …}", "a name or a path"),
    "evaluator": Here("data: {eval: …}", "a name, a path or {holdout: N}"),
    "loss_fct": Here("loss: …", "mse or bce of a score; a model of labels has the cross-entropy"),
    "activation_fn": Here("loss: bce", "a score through a sigmoid; mse has none"),
    "default_activation_function": Here("loss: bce", "a score through a sigmoid; mse has none"),
    "scheduler": Here("schedule: …", "linear (WarmupLinear), cosine or constant; or DeepSpeed's under deepspeed"),
    "optimizer_class": _ADAMW,
    "optimizer_params": Here("learning_rate: …", "with betas, eps and weight_decay"),
    "output_path": Here("output: VALUE"),
    "save_best_model": Here("keep_best: true"),
    "use_amp": Here("precision: auto"),
    "show_progress_bar": _TERMINAL,
    "model_name_or_path": _ONE_MODEL,
}
"""CrossEncoderTrainingArguments' own names, and those of CrossEncoder and its older fit()."""

_TEACHER = Here("teacher: VALUE", "a run, a model folder, a name, a hub id or a bundle")
_TEACHERS_SHARE = Here("teacher: {model: MODEL, mix: VALUE}", "the teacher's share of the loss")
_GOLD_SHARE = Here("teacher: {model: MODEL, mix: …}", "the teacher's share of the loss: 1 - VALUE")
_SOFTENED = Here("teacher: {model: MODEL, temperature: VALUE}", "of both models; the loss is multiplied by its square")

DISTILLATION: dict[str, Here] = {
    "teacher_model_name_or_path": _TEACHER,
    "teacher_name_or_path": _TEACHER,
    "teacher_model_path": _TEACHER,
    "teacher_model_name": _TEACHER,
    "teacher_model": _TEACHER,
    "teacher_path": _TEACHER,
    "teacher_name": _TEACHER,
    "alpha": Here(
        "teacher: {model: MODEL, mix: …}",
        "the teacher's share of the loss: 1 - alpha where alpha is the share of the gold labels, as it mostly is",
    ),
    "alpha_ce": _TEACHERS_SHARE,
    "alpha_distil": _TEACHERS_SHARE,
    "kd_loss_weight": _TEACHERS_SHARE,
    "distillation_weight": _TEACHERS_SHARE,
    "hard_label_weight": _GOLD_SHARE,
    "alpha_hard": _GOLD_SHARE,
    "temperature": _SOFTENED,
    "kd_temperature": _SOFTENED,
    "distillation_temperature": _SOFTENED,
    "distillation": Here("teacher: MODEL", "or {model: MODEL, temperature: …, mix: …}"),
    "distill": Here("teacher: MODEL", "or {model: MODEL, temperature: …, mix: …}"),
}
"""Names in programs for distillation (transformers' examples, TextBrewer, trainers made of its book's chapter 8)."""

DEEPSPEED: dict[str, Here] = {
    "train_batch_size": Here("global_batch_size: VALUE", "pairs of a step over all ranks"),
    "train_micro_batch_size_per_gpu": Here("micro_batch_tokens: …", "in tokens, not pairs; found by itself on a GPU"),
    "gradient_accumulation_steps": _NO_ACCUMULATION,
    "gradient_clipping": Here("max_grad_norm: VALUE"),
    "zero_optimization": Here("zero_stage: …", "the stage; other keys of it in deepspeed: {zero_optimization: {…}}"),
    "optimizer": Here("learning_rate: …", "AdamW with betas, eps and weight_decay, which are keys too"),
    "scheduler": Here("schedule: …", "linear, cosine or constant, with warmup or warmup_steps"),
    "bf16": _BF16,
    "bfloat16": _BF16,
    "fp16": _FP16,
    "wandb": Here("report_to: wandb"),
    "compile": Here("compile: auto"),
    "steps_per_print": _METRICS,
}
"""DeepSpeed's own keys at the top of a run file. All others of DeepSpeed's belong under `deepspeed:`."""


def find(name: str) -> Here | None:
    """What serves for a key of another program; None if none of them has it."""
    name = name.replace("-", "_")
    for table in (TRAINING_ARGUMENTS, SCRIPTS, CROSS_ENCODER, DISTILLATION, DEEPSPEED):
        if name in table:
            return table[name]
    return Here(f"deepspeed: {{{name}: …}}") if name in KNOWN_KEYS[""].split() else None


def keys(found: Here) -> list[str]:
    """The run file's keys (dotted) that serve, with the sections that they are in."""
    return list(_keys(yaml.safe_load(found.write) if found.write else {}))


def _keys(content: Any, above: str = "") -> Iterator[str]:
    for name, value in content.items() if isinstance(content, dict) else ():
        yield above + name
        yield from _keys(value, f"{above}{name}.")


def advice(found: Here, value: Any) -> str:
    """What to do with a key of another program that has this value."""
    shown = str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else "…"
    do = f"write {found.write.replace('VALUE', shown)}" if found.write else "remove it"
    if value is False and found.write and not re.search("VALUE|…", found.write):
        do = f"remove it; true would be {found.write}"
    return do + (f" ({found.note})" if found.note else "")
