"""Opens the model that the user names on the command line: a run, checkpoint, model folder, bundle or fetched name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertnli.common import temperature
from bertnli.common.errors import InputError
from bertnli.common.files import existing_path
from bertnli.common.imports import quick_imports
from bertnli.common.installed import need
from bertnli.common.progress import say
from bertnli.common.urls import is_url, redact
from bertnli.families import folder_config
from bertnli.fetch.known_folders import is_bundle
from bertnli.fetch.resolve import resolve_model
from bertnli.run.folder import result_of, run_of

if TYPE_CHECKING:
    from bertnli.commands.eval import Model
    from bertnli.common.temperature import Calibration
    from bertnli.model.pretrained import Pretrained


class ModelOptions(NamedTuple):
    """The user's options: for what a model's files do not specify, `--arch` and `--labels` (comma-separated); in place
    of what they specify, `--max-length` and `--truncation`."""

    arch: str | None = None
    labels: str | None = None
    max_length: int | None = None
    truncation: str | None = None

    def refuse(self, model: str, what: str) -> None:
        """Raise InputError for --arch or --labels, for a model whose files specify them. what: for the message."""
        for option, given in (("--arch", self.arch), ("--labels", self.labels)):
            if given is not None:
                raise InputError(option, found=f"{model}, {what} specifies it", do=f"omit {option}")

    def refuse_all(self, model: str) -> None:
        """The same for a bundle, whose length and truncation are fixed too."""
        self.refuse(model, "a bundle, whose manifest")
        for option, given in (("--max-length", self.max_length), ("--truncation", self.truncation)):
            if given is not None:
                raise InputError(
                    option, found=f"{model}, a bundle", do=f"omit it, or export the model again with {option} {given}"
                )


def load(model: str, options: ModelOptions) -> Pretrained:
    """The weights, for torch or for export. Raises InputError and RunError as `pretrained.load` does."""
    need("torch", "train")
    with quick_imports():
        from bertnli.model import pretrained
        from bertnli.train.inputs import load_run_model

    path, arch = resolve_model(model, folder_config.parse_classifier)
    if run_of(path) is not None:
        options.refuse(model, "a run, whose run file")
        source = load_run_model(path, warn=say)
        tokenizer = source.tokenizer.changed(options.max_length, options.truncation, source.config.max_positions)
        return replace(source, tokenizer=tokenizer)
    labels = None if options.labels is None else [name.strip() for name in options.labels.split(",")]
    settings: dict[str, Any] = {"max_length": options.max_length, "truncation": options.truncation}
    source = pretrained.load(path, arch=options.arch or arch, labels=labels, **settings)
    for note in source.notes:
        say(note)
    return source


def predictor(model: str, options: ModelOptions, device: str) -> Model:
    """The model that `bertnli eval` measures: a bundle in ONNX Runtime, or a checkpoint in torch."""
    if is_bundle(model):
        from bertnli_export.scorer import Scorer

        options.refuse_all(redact(model) if is_url(model) else model)
        return Scorer(model, device=device)
    source = load(model, options)
    if not source.has_classifier:
        raise InputError(f"model {model}: it has no classifier", do="train it first: bertnli train RUN.yaml")
    from bertnli.model.predictor import TorchPredictor

    return TorchPredictor(source.build(), source.tokenizer, device, source.temperature)


def split_options(given: ModelOptions, model: str, other: str) -> tuple[ModelOptions, ModelOptions]:
    """The options for each of two models: an option is for the models whose files do not specify it.

    If the files of both specify it, it goes to the first model, which then refuses it in an error message.
    """
    for_model_missing, for_other_missing = _missing_options(model), _missing_options(other)
    for_other = {option: value for option, value in given._asdict().items() if option in for_other_missing}
    for_model = {
        option: value
        for option, value in given._asdict().items()
        if option in for_model_missing or option not in for_other_missing
    }
    return ModelOptions(**for_model), ModelOptions(**for_other)


def _missing_options(model: str) -> set[str]:
    """The options that the model's files do not specify: of "arch" and "labels"."""
    if is_bundle(model):
        return set()
    path, arch = resolve_model(model, folder_config.parse_classifier)
    if run_of(path) is not None:
        return set()
    need("torch", "train")
    from bertnli.model import pretrained

    return pretrained.missing_options(path) - ({"arch"} if arch else set())


def temperature_writer(model: str) -> Callable[[Calibration], None]:
    """A function that stores a temperature in the bundle or the model folder; for a finished run, in its model folder.

    Raises InputError if it cannot be stored, as for a checkpoint.
    """
    if is_url(model):
        raise InputError(
            "--calibrate", found=f"{redact(model)}, which is elsewhere", do="copy the bundle here, and copy it back"
        )
    if is_bundle(model):
        from bertnli_export.bundle import folder_and_graph
        from bertnli_export.manifest import update_manifest

        bundle, _ = folder_and_graph(Path(model))
        temperature.check_writable(bundle)
        return lambda fitted: update_manifest(bundle, temperature=fitted.temperature)
    path = existing_path(model)
    result = None if path is None else result_of(path)
    folder = temperature.check_folder(str(result or model))
    return lambda fitted: temperature.store(folder, fitted)
