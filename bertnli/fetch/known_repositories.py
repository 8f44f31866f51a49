"""Repositories on the model hub that are no models for us: recognised by the names of their files, before any is read.

known_folders.py does the same for folders on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase

from bertnli.common.errors import InputError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

# A pattern of file names: whose they are, and what to take. NAME is the repository. The first that is found counts.
_OTHER_LIBRARIES = (
    ("config_setfit.json", "SetFit's classifier of single texts", "take a model that classifies pairs"),
    ("gliner_config.json", "GLiNER's, which finds entities", "take a model that classifies pairs"),
    ("open_clip_config.json", "open_clip's, which compares images with texts", "take a model of text pairs"),
    ("model_index.json", "diffusers', which makes images", "take a model of text pairs"),
    ("*.gguf", "llama.cpp's (GGUF)", "take the checkpoint that it was made from; its model card names it"),
    ("*.nemo", "NeMo's", "take a checkpoint that transformers opens"),
    ("*.onnx", "ONNX", "take the checkpoint that it was exported from; its model card names it"),
    ("*openvino_model.xml", "OpenVINO's", "take the checkpoint that it was made from; its model card names it"),
    ("tf_model.h5", "TensorFlow's", "save it for PyTorch with transformers 4: from_pretrained('NAME', from_tf=True)"),
    ("*.ckpt.index", "TensorFlow's", "take the same model for PyTorch, as google-bert has Google's"),
    (
        "flax_model.msgpack",
        "Flax's",
        "save it for PyTorch with transformers 4: from_pretrained('NAME', from_flax=True)",
    ),
    ("*.mlmodel", "Core ML's", "take the checkpoint that it was made from; its model card names it"),
    ("rust_model.ot", "rust-bert's", "take the checkpoint that it was made from; its model card names it"),
    ("*.keras", "Keras'", "take a checkpoint that transformers opens"),
    ("saved_model.pb", "TensorFlow's", "take a checkpoint that transformers opens"),
    ("*.joblib", "scikit-learn's", "take a checkpoint that transformers opens"),
    ("*.skops", "scikit-learn's", "take a checkpoint that transformers opens"),
    ("*.pkl", "a pickle, which can run code", "take a checkpoint that transformers opens"),
    ("*.spacy", "spaCy's", "take a checkpoint that transformers opens"),
    ("*.params", "d2l's or MXNet's", "download it, and give its folder: hf download NAME --local-dir FOLDER"),
    ("model.*.safetensors", "a variant of the weights alone", "take a repository with model.safetensors"),
    ("pytorch_model.*.bin", "a variant of the weights alone", "take a repository with model.safetensors"),
)


def check(name: str, files: Collection[str]) -> None:
    """Raise InputError, with what to do, if a repository with these files is not a model that can be read.

    name: `org/name`, or with its revision. files: paths in the repository.
    """
    repo, _, revision = name.partition("@")
    at = f" --revision {revision}" if revision else ""
    if "adapter_config.json" in files:
        raise InputError(
            f"model {name}: a PEFT adapter (LoRA), not a model",
            found="adapter_config.json",
            expected="config.json with the weights of the whole model",
            do="merge it into its base model: peft.AutoPeftModelForSequenceClassification"
            f".from_pretrained({repo!r}, num_labels=N).merge_and_unload().save_pretrained(OUT), N the number of labels;"
            " put the tokenizer's files into OUT, and give OUT as the model",
        )
    if "manifest.json" in files and any(file.endswith("model.onnx") for file in files):
        raise InputError(
            f"model {name}: a bundle, which is ready to score",
            do=f"download it, and give its folder: hf download {repo}{at} --local-dir BUNDLE",
        )
    if "config.json" in files and any(weights in files for weights in WEIGHTS):
        return
    inside = sorted({file.rpartition("/")[0] for file in files if _is_weights_in_folder(file, files)})
    if inside:
        raise InputError(
            f"model {name}: no model at the top of the repository, but in {'a' if len(inside) == 1 else 'each'} folder",
            found=", ".join(inside[-3:]),
            do=f"download one, and give its path: hf download {repo}{at} --include '{inside[-1]}/*' --local-dir FOLDER",
        )
    for pattern, whose, do in _OTHER_LIBRARIES:
        for file in sorted(files):
            if fnmatchcase(file.rpartition("/")[2], pattern):
                raise InputError(
                    f"model {name}: no weights that transformers reads with PyTorch",
                    found=f"{file}, which is {whose}",
                    expected=f"config.json with {WEIGHTS[0]} or {WEIGHTS[2]}",
                    do=do.replace("NAME", repo),
                )
    kept = [file for file in sorted(files) if not re.fullmatch(r"\..*|README\.md|LICENSE.*", file)]
    raise InputError(
        f"model {name}: not a model that transformers reads",
        found=", ".join(kept[:6]) or "nothing but a description",
        expected=f"config.json with {WEIGHTS[0]} or {WEIGHTS[2]}",
    )


def _is_weights_in_folder(file: str, files: Collection[str]) -> bool:
    folder, _, base = file.rpartition("/")
    return bool(folder) and base in WEIGHTS and f"{folder}/config.json" in files
