"""Command-line options as other programs call them (optimum-cli, transformers' scripts), and what serves here instead.

docs/from_elsewhere.md shows these tables (docs/from_elsewhere.py makes it). A name has hyphens here; the command line
takes underscores too.
"""

from __future__ import annotations

from bertnli.common.errors import InputError
from bertnli.run import foreign_keys
from bertnli.run.config import RunConfig

_BATCHES = "leave it out: a batch has as many pairs as fit, and no score depends on it"
_LENGTH = "--max-length TOKENS"
_MODEL = "give it without a name, as the first argument"
_REMOTE_CODE = "leave it out: code of a model folder is never run"
_CACHE = "BERTNLI_CACHE in the environment names the folder"
_TOKEN = "HF_TOKEN in the environment"
_REVISION = "write it into the model's name: org/name@revision"
_CPU = "--device cpu"
_GPU = "--device cuda"
_COLUMN = "--premise, --hypothesis and --label name the columns"
_FUSED = "leave it out: attention, layer norms and GELU are always fused"
_INT8 = "--precision int8"
_SHAPES = "leave it out: batch and length stay free, and are traced at several shapes"
_NOT_NEEDED = "leave it out: it is not needed"
_FILE = "give the file without a name, after the model"

_MODELS = {
    "m": _MODEL,
    "model": _MODEL,
    "model-id": _MODEL,
    "model-name": _MODEL,
    "model-path": _MODEL,
    "model-name-or-path": _MODEL,
    "trust-remote-code": _REMOTE_CODE,
    "cache-dir": _CACHE,
    "token": _TOKEN,
    "revision": _REVISION,
    "tokenizer": "leave it out: the tokenizer is the model folder's own",
    "tokenizer-name": "leave it out: the tokenizer is the model folder's own",
}
_RUNNING = {
    "batch-size": _BATCHES,
    "eval-batch-size": _BATCHES,
    "per-device-eval-batch-size": _BATCHES,
    "cuda": _GPU,
    "gpu": _GPU,
    "use-gpu": _GPU,
    "cpu": _CPU,
    "no-cuda": _CPU,
    "use-cpu": _CPU,
    "provider": "--device cpu or --device cuda",
    "text-column": _COLUMN,
    "text-column-names": _COLUMN,
    "sentence1-column": _COLUMN,
    "sentence2-column": _COLUMN,
    "label-column": _COLUMN,
    "label-column-name": _COLUMN,
    "sep": "--delimiter",
    "separator": "--delimiter",
    "input-format": "--format",
}
_LENGTHS = {"max-seq-length": _LENGTH, "max-seq-len": _LENGTH, "model-max-length": _LENGTH}

OPTIONS: dict[str, dict[str, str]] = {
    "export": {
        **_MODELS,
        **_LENGTHS,
        "o": "give the folder without a name, after the model",
        "output": "give the folder without a name, after the model",
        "output-dir": "give the folder without a name, after the model",
        "task": "leave it out: the task is a pair's classification or score, as the model's config.json says",
        "device": "leave it out: a graph is made on the CPU; bertnli verify --device cuda checks it on a GPU",
        "dtype": "--precision fp32, fp16 or int8",
        "fp16": "--precision fp16",
        "bf16": "--precision fp16",
        "half": "--precision fp16",
        "int8": _INT8,
        "quantize": _INT8,
        "per-channel": f"{_INT8}, whose weights have a scale for each channel",
        "arm64": f"{_INT8}, which runs on any CPU",
        "avx2": f"{_INT8}, which runs on any CPU",
        "avx512": f"{_INT8}, which runs on any CPU",
        "avx512-vnni": f"{_INT8}, which runs on any CPU",
        "tensorrt": "--precision fp16, for a GPU",
        "optimize": _FUSED,
        "O": f"{_FUSED} (O1 to O3); --precision fp16 is O4",
        "monolith": _NOT_NEEDED,
        "no-post-process": _NOT_NEEDED,
        "variant": _NOT_NEEDED,
        "framework": _NOT_NEEDED,
        "library": _NOT_NEEDED,
        "library-name": _NOT_NEEDED,
        "pad-token-id": _NOT_NEEDED,
        "no-position-ids": _NOT_NEEDED,
        "for-ort": _NOT_NEEDED,
        "legacy": _NOT_NEEDED,
        "slim": _FUSED,
        "no-constant-folding": _NOT_NEEDED,
        "model-kwargs": _NOT_NEEDED,
        "atol": "leave it out: the parity check has its own limits; --verify DATA gives it real rows",
        "batch-size": _SHAPES,
        "sequence-length": _SHAPES,
        "num-choices": _SHAPES,
        "no-dynamic-axes": _SHAPES,
        "onnx-model": _MODEL,
        "overwrite": "--force",
    },
    "score": {
        **_MODELS,
        **_RUNNING,
        "max-length": "a bundle has its own; bertnli export has --max-length",
        "max-seq-length": "a bundle has its own; bertnli export has --max-length",
        "model-max-length": "a bundle has its own; bertnli export has --max-length",
        "bundle": _MODEL,
        "input": _FILE,
        "input-file": _FILE,
        "output": "give the file without a name, after the input",
        "output-file": "give the file without a name, after the input",
        "output-dir": "give the file without a name, after the input",
        "output-format": "--format, or the end of the file's name",
        "num-workers": "--workers",
        "num-proc": "--workers",
        "gpus": "--devices",
        "gpu-ids": "--devices",
        "device-ids": "--devices",
        "fp16": "bertnli export --precision fp16 makes a bundle for it",
        "bf16": "bertnli export --precision fp16 makes a bundle for it",
        "precision": "bertnli export --precision makes a bundle for it",
        "quantize": "bertnli export --precision int8 makes a bundle for it",
        "overwrite": "--restart",
        "force": "--restart",
        "resume": "leave it out: the same command goes on",
        "label-names": "leave it out: bertnli eval has --label-names, and measures",
        "skip-bad-rows": "leave it out: a bad row keeps its place, with the reason in the column error",
    },
    "eval": {
        **_MODELS,
        **_RUNNING,
        **_LENGTHS,
        "output": "--report",
        "output-dir": "--report",
        "output-file": "--report",
        "dataset": _FILE,
        "dataset-name": _FILE,
        "test-file": _FILE,
        "validation-file": _FILE,
        "task": "leave it out: the task is what the model gives",
        "task-name": "leave it out: the task is what the model gives",
        "metric": "leave it out: all metrics are measured",
        "metrics": "leave it out: all metrics are measured",
        "seed": "leave it out: nothing is random",
    },
    "train": {
        "config": "give the run file without a name",
        "config-file": "give the run file without a name",
        "nproc": "--ranks",
        "nproc-per-node": "--ranks",
        "num-gpus": "--ranks",
        "num-processes": "--ranks",
        "gpus": "--ranks",
        "nnodes": "bertnli launch RUN.yaml --hostfile HOSTS",
        "hostfile": "bertnli launch RUN.yaml --hostfile HOSTS",
        "resume": "leave it out: the same command goes on",
        "overwrite-output-dir": "leave it out: give another output, or remove the folder",
    },
}
"""Command -> option -> what to do."""


MODULE = "python -m bertnli.train"
"""One rank; what a launcher starts. Its options are fewer than those of `bertnli train`."""


def refused(command: str, option: str) -> InputError | None:
    """The error for an option that `command` does not have; None if no other program has it either."""
    do = advice(command, option)
    if do is None:
        return None
    return InputError(f"{command}: no option {option}", do=f"use {do}" if do.startswith("-") else do)


def advice(command: str, option: str) -> str | None:
    """What to do with an option that `command` does not have; None if no other program has it either.

    Commands that train also know the keys of a run file, which `--set` takes.
    """
    name, trains = option.lstrip("-").replace("_", "-"), command in ("train", "launch", MODULE)
    do = OPTIONS.get("train" if trains else command, {}).get(name)
    if command == MODULE and "--ranks" in (do, f"--{name}"):
        return "it is one rank; bertnli train RUN.yaml --ranks N starts several, as torchrun and deepspeed do"
    return _as_key(name.replace("-", "_")) if do is None and trains else do


def _as_key(name: str) -> str | None:
    """The same as `--set`, for a key of a run file or of another program's settings."""
    if name in RunConfig.model_fields:
        return f"--set {name}=…"
    found = foreign_keys.find(name)
    if found is None:
        return None
    key = next(reversed(foreign_keys.keys(found)), "")
    do = f"--set {key}=…" if key else "leave it out"
    return do + (f" ({found.note})" if found.note else "")
