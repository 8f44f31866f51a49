"""`bertnli doctor --model`: whether and how a model will run, from its config.json and tokenizer alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import existing_path, read_json
from bertnli.common.installed import installed
from bertnli.common.progress import megabytes
from bertnli.data import output_config
from bertnli.data.tokenizer import PairTokenizer
from bertnli.families import folder_config
from bertnli.fetch import hub_repository, known_folders, model_hub
from bertnli.fetch.cache import commit_of, downloads_dir, folder_of, is_complete
from bertnli.fetch.catalog import lookup
from bertnli.fetch.entry import Entry, HubAnswerError, HubModel, SourceError
from bertnli.fetch.resolve import check_name
from bertnli.run.folder import result_of, run_of
from bertnli.run.run_file import load_run

_BYTES = {"float16": 2, "bfloat16": 2, "float64": 8}  # of a weight, by config.json's dtype; else 4
_LARGEST_GRAPH = 2**31  # bytes of weights in an ONNX file, protobuf's limit
_IN_GRAPH = {"fp32": 4, "int8": 4, "fp16": 2}  # bytes of a weight in the largest file that an export makes
_NEEDS = {"train": ("torch", "deepspeed"), "eval": ("torch",), "export": ("torch", "onnxscript"), "score": ()}

Facts = dict[str, Any]


def about_model(model: str) -> Facts:
    """What is known of a model before its weights are read: `family`, `outputs`, `max_length`, `precisions`, `can`, ….

    model: as for `bertnli eval`: a hub id, which is not fetched for this, a name, or the path of a model folder or run.
    Raises InputError, with the message that `bertnli fetch` gives, if the model cannot run; RunError if the hub cannot
    be asked.
    """
    path = existing_path(model)
    if path is None:
        check_name(model, "model")
        entry = lookup(model)
        assert entry is not None  # or check_name would not have taken the name
        if not is_complete(entry):
            return _of_entry(entry)
        path = folder_of(entry)
        if entry.arch is not None:
            return _of_d2l(entry)
    if (run := run_of(path)) is not None:
        result = result_of(path)
        return about_model(load_run(run.run_file).model) if result is None else _of_folder(model, result)
    return _of_folder(model, path)


def _of_entry(entry: Entry) -> Facts:
    """Of a name that is not in the cache."""
    source = next((source for source in entry.sources if isinstance(source, HubModel)), None)
    if source is None:
        return _of_d2l(entry)
    try:
        found = hub_repository.repository(source)
        downloads_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads_dir()) as temporary:  # on the disk of what is linked
            folder = Path(temporary)
            model_hub.describe(found, folder, folder_config.parse)
            index = next((name for name in found.files if name.endswith(".index.json")), None)
            if index is not None:
                found.get([index], folder)
            chosen = model_hub.weights(found.files, lambda name: read_json(folder / name))
            facts = _facts(entry.name, folder, chosen, found.size(chosen), f"model {found.name}")
    except HubAnswerError as error:
        raise InputError(f"model {entry.name!r}", found=error.found, do=error.do) from error
    except SourceError as error:
        retry = "give the same command again, or, if you have the model's folder: bertnli doctor --model FOLDER"
        raise RunError(f"model {entry.name}: {source}: {error}", do=retry) from error
    return facts | {"revision": found.commit, "weights_here": False}


def _of_folder(model: str, folder: Path) -> Facts:
    if not folder.is_dir():
        raise InputError(f"--model {model}", found="a file", expected="a model folder, a hub id, or a name for fetch")
    if (folder / "manifest.json").is_file():
        raise InputError(
            f"--model {model}", found="a bundle, which is ready to score", do=f"bertnli doctor --bundle {model}"
        )
    known_folders.check(folder)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: no config.json", do="for d2l weights: give --arch to the command, which reads the sizes from it"
        )
    folder_config.parse(read_json(folder / "config.json"), f"{folder}/config.json")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    chosen = model_hub.weights(names, lambda name: read_json(folder / name))
    if not chosen:
        raise InputError(f"{folder}: no weights", found=", ".join(names[:8]), expected="model.safetensors")
    size = sum((folder / name).stat().st_size for name in chosen)
    facts = _facts(model, folder, chosen, size, str(folder))
    return facts | {"revision": commit_of(folder, ""), "weights_here": True}


def _of_d2l(entry: Entry) -> Facts:
    can = {"train": ""} | dict.fromkeys(("eval", "export"), "it has no classifier: train it first")
    return {
        "model": entry.name,
        "family": "d2l",
        "about": entry.about,
        "classifier": False,
        "can": can | {"score": "export it first"},
        "precisions": ["fp32", "int8", "fp16"],
    }


def _facts(model: str, folder: Path, weights: list[str], size: int | None, where: str) -> Facts:
    """where: names the folder in messages."""
    config = read_json(folder / "config.json")
    parsed = folder_config.parse(config, f"{where}/config.json")
    tokenizer = PairTokenizer.from_folder(folder)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    parameters = None if size is None else size // _BYTES.get(dtype.removeprefix("torch."), 4)
    fit = [name for name, each in _IN_GRAPH.items() if parameters is None or each * parameters < _LARGEST_GRAPH]
    facts: Facts = {
        "model": model,
        "family": parsed.family,
        "classes": parsed.architectures or [],
        "classifier": folder_config.has_classifier(parsed),
        "bi_encoder": model_hub.is_bi_encoder(folder),
        "outputs": None,
        "max_length": tokenizer.max_length,
        "truncation": tokenizer.settings.truncation,
        "precisions": fit,
        "weights": weights,
        "weights_bytes": size,
        "parameters": parameters,
        "notes": [note.replace(str(folder), where) for note in tokenizer.notes],
    }
    if reason := _no_classifier(facts):
        return facts | {"can": {"train": "", "eval": reason, "export": reason, "score": reason}}
    facts["outputs"] = _outputs(config, where, folder)
    unnamed = "its config has no label names: give {}, in the order of its outputs"
    option, key = ("", "") if facts["outputs"] else map(unnamed.format, ("--labels", "labels in the run file"))
    if not facts["classifier"]:  # the config names no class; an encoder, as MiniLM, gets a new classifier
        key = ""
    too_large = "" if fit else "it is too large for one ONNX file"
    can = {"train": key, "eval": option, "export": too_large or option, "score": too_large or "export it first"}
    return facts | {"can": can}


def _no_classifier(facts: Facts) -> str:
    if facts["classifier"] is not False:
        return ""
    if facts["bi_encoder"]:
        return (
            "it is a bi-encoder of sentence-transformers, for embeddings of single texts, and has no classifier of "
            "pairs: train it first, or take a cross-encoder"
        )
    return "it has no classifier: train it first"


def _outputs(config: Mapping[str, Any], where: str, folder: Path) -> Facts | None:
    """What the outputs mean; None: the user has to name them."""
    if output_config.lacks_names(config, f"{where}/config.json"):
        return None
    found, _ = output_config.read(config, f"{where}/config.json", model_hub.other_files(folder), where)
    return asdict(found) | {"names": list(found.names)}


def lines(facts: Facts) -> Iterator[str]:
    """Lines of `WHAT: what there is; what to do`."""
    commit = f", commit {facts['revision']}" if facts.get("revision") else ""
    yield f"model {facts['model']}: it runs{commit}"
    about = facts.get("about") or ", ".join(facts["classes"]) or "its config names no class"
    yield f"family: {facts['family']} ({about})"
    if facts.get("outputs"):
        yield f"outputs: {_in_words(facts['outputs'])}"
    elif facts["classifier"] is False:
        yield "outputs: none, an encoder without a classifier; training adds one"
    else:
        yield f"outputs: {facts['can']['eval']}"
    if "max_length" in facts:
        yield f"length: up to {facts['max_length']} tokens of a pair; longer ones are cut, {facts['truncation']}"
        size = "of unknown size" if facts["weights_bytes"] is None else megabytes(facts["weights_bytes"])
        here = "" if facts["weights_here"] else "; not fetched yet"
        yield f"weights: {', '.join(facts['weights'][:3])}, {size}{here}"
        if parameters := facts["parameters"]:
            training = 16 * parameters  # fp32 weights, gradients and two moments
            yield (
                f"memory: about {megabytes(4 * parameters)} for the weights in fp32; to train, {megabytes(training)} "
                "for weights, gradients and moments; and the activations"
            )
    devices = {"fp32": "CPU and GPU", "int8": "CPU", "fp16": "GPU"}
    precisions = ", ".join(f"{name} ({devices[name]})" for name in facts["precisions"])
    large = "" if len(facts["precisions"]) > 1 else "; in fp32 it is too large for one ONNX file"
    yield f"precisions: {precisions}{large}" if precisions else "precisions: none, it is too large for one ONNX file"
    have = installed({name for needs in _NEEDS.values() for name in needs})
    for command, reason in facts["can"].items():
        lacking = [name for name in _NEEDS[command] if name not in have]
        extra = "export" if command == "export" else "train"
        install = f"; first: pip install 'bertnli[{extra}]'" if lacking else ""
        yield f"{command}: {reason or 'yes'}{install}"
    for note in facts.get("notes", []):
        yield f"note: {note}"


def _in_words(outputs: Facts) -> str:
    kind = {
        "single_label_classification": "one of them, by softmax",
        "multi_label_classification": "independent of each other, each by its sigmoid",
        "regression": f"one score, {outputs['activation']}",
    }
    names = "" if outputs["problem_type"] == "regression" else f"{', '.join(outputs['names'])}; "
    return f"{names}{kind[outputs['problem_type']]}"
