"""Folders that bertnli recognises but cannot read as a model, each with what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from bertnli.common.errors import InputError
from bertnli.common.files import read_map
from bertnli.fetch.known_repositories import WEIGHTS

_LFS = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024  # bytes, far above that of any pointer
_OTHER_PROGRAMS = {  # a file of weights: whose it is, and how to get one that is read
    "*.onnx": (
        "ONNX",
        "give the checkpoint that it was exported from; of ONNX files bertnli scores only bundles that it wrote",
    ),
    "*.ckpt.index": (
        "TensorFlow",
        "take the same model for PyTorch, as the hub has Google's; or convert it with `transformers-cli convert` of "
        "transformers 4, which needs TensorFlow",
    ),
    "tf_model.h5": ("TensorFlow", "save it for PyTorch with transformers 4: from_pretrained(FOLDER, from_tf=True)"),
    "flax_model.msgpack": ("Flax", "save it for PyTorch with transformers 4: from_pretrained(FOLDER, from_flax=True)"),
    "*.gguf": ("llama.cpp (GGUF)", "give the checkpoint that it was made from"),
    "openvino_model.xml": ("OpenVINO", "give the checkpoint that it was made from"),
    "*.distcp": (
        "torch.distributed.checkpoint",
        "merge them: accelerate merge-weights FOLDER OUT, and put config.json and the tokenizer's files into OUT",
    ),
}


def check(folder: Path) -> None:
    """Raise InputError, with what to do, if the folder is one of these and not a model."""
    names = {entry.name for entry in folder.iterdir()}
    if pointer := next(_pointers(folder), None):
        raise InputError(
            f"{pointer}: only a pointer to the file",
            found="what git leaves without git-lfs",
            do=f"git -C {folder} lfs pull",
        )
    if "adapter_config.json" in names:
        base = read_map(folder / "adapter_config.json").get("base_model_name_or_path")
        raise InputError(
            f"{folder}: a PEFT adapter, not a model",
            found=f"adapter_config.json, for {base}",
            do="merge the two: peft.AutoPeftModelForSequenceClassification"
            f".from_pretrained({str(folder)!r}, num_labels=N)"
            ".merge_and_unload().save_pretrained(OUT), N the number of labels, and put the tokenizer's files into OUT",
        )
    is_hf, is_d2l = "config.json" in names and names & set(WEIGHTS), "vocab.json" in names
    if is_hf or (is_d2l and "config.json" not in names):
        return
    if "manifest.json" in names and "model.onnx" in names:
        raise InputError(
            f"{folder}: a bundle, which has no weights for torch", do="give the model folder that it was exported from"
        )
    if names & {"latest", "zero_to_fp32.py"} or any(
        re.fullmatch(r"global_step\d+|mp_rank_\d+_model_states\.pt|zero_pp_rank_.*_states\.pt", name) for name in names
    ):
        top = folder.parent if re.fullmatch(r"global_step\d+", folder.name) else folder
        raise InputError(
            f"{folder}: a DeepSpeed checkpoint, not a model",
            do=f"make its weights: python -m deepspeed.utils.zero_to_fp32 {top} OUT, "
            "and put config.json and the tokenizer's files into OUT",
        )
    if inside := sorted(_models_inside(folder), key=_newest_last):
        raise InputError(
            f"{folder}: not a model, but it has {'one' if len(inside) == 1 else 'some'} inside",
            found=", ".join(str(path.relative_to(folder)) for path in inside[-3:]),
            do=f"give the path of the model: {inside[-1]}",
        )
    if "bert_config.json" in names and names & set(WEIGHTS):
        raise InputError(
            f"{folder}: no config.json, but the bert_config.json of earlier programs",
            do='rename it to config.json, and add "model_type": "bert" to it',
        )
    for pattern, (program, do) in _OTHER_PROGRAMS.items():
        if found := next(folder.glob(pattern), None) or next(folder.glob(f"*/{pattern}"), None):
            raise InputError(
                f"{folder}: no weights for PyTorch",
                found=f"{found.relative_to(folder)}, which is {program}'s",
                expected="model.safetensors or pytorch_model.bin",
                do=do.replace("FOLDER", str(folder)),
            )


def _pointers(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):  # the code that needs the file reports this
            if path.is_file() and path.stat().st_size < _LARGEST_POINTER and path.read_bytes().startswith(_LFS):
                yield path


def _models_inside(folder: Path) -> Iterator[Path]:
    """Model folders inside: the Trainer's checkpoint-500, the hub cache's snapshots/COMMIT, a part of a model."""
    for path in (*folder.glob("*"), *folder.glob("snapshots/*"), *folder.glob("models--*/snapshots/*")):
        has_weights = any((path / name).is_file() for name in WEIGHTS)
        if re.fullmatch(r"checkpoint-\d+", path.name) or (has_weights and (path / "config.json").is_file()):
            yield path


def _newest_last(path: Path) -> tuple[bool, int, str]:
    """Checkpoints by their step; of the hub cache's snapshots the one of the main branch is the last."""
    step = re.fullmatch(r"checkpoint-(\d+)", path.name)
    main = path.parents[1] / "refs" / "main"
    return main.is_file() and main.read_text().strip() == path.name, int(step[1]) if step else -1, path.name


def is_bundle(model: str) -> bool:
    """Whether the path is the folder of a bundle, which `bertnli export` makes, or one of its graphs."""
    return (Path(model) / "manifest.json").is_file() or (model.endswith(".onnx") and Path(model).is_file())
