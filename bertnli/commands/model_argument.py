"""The models that a user names on the command line: a run or checkpoint, a folder, a fetched name, a bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bertnli.common import temperature
from bertnli.common.errors import InputError
from bertnli.common.files import existing_path
from bertnli.common.installed import need
from bertnli.fetch.resolve import resolve_model
from bertnli.run.folder import result_of, run_of

if TYPE_CHECKING:
    from bertnli.commands.eval import Model
    from bertnli.common.temperature import Calibration
    from bertnli.model.pretrained import Pretrained


class ModelOptions(NamedTuple):
    """What a model's own files may not specify, as a user gives it: `--arch` and `--labels` (comma-separated)."""

    arch: str | None = None
    labels: str | None = None

    def refuse(self, model: str, what: str) -> None:
        """Raises InputError if one is given, for a model whose files specify both."""
        for option, given in (("--arch", self.arch), ("--labels", self.labels)):
            if given is not None:
                raise InputError(option, found=f"{model}, {what} says it", do="remove it")


def is_bundle(model: str) -> bool:
    return (Path(model) / "manifest.json").is_file()


def load(model: str, options: ModelOptions) -> Pretrained:
    """Weights to compute with in torch, or to export. Raises InputError and RunError as `pretrained.load` does."""
    need("torch", "train")
    from bertnli.model import pretrained
    from bertnli.train.inputs import load_run_model

    path, arch = resolve_model(model)
    if run_of(path) is not None:
        options.refuse(model, "a run, whose run file")
        return load_run_model(path, warn=lambda line: print(line, file=sys.stderr))
    labels = None if options.labels is None else [name.strip() for name in options.labels.split(",")]
    return pretrained.load(path, arch=options.arch or arch, labels=labels)


def predictor(model: str, options: ModelOptions, device: str) -> Model:
    """What `bertnli eval` measures: a bundle's session, or a checkpoint in torch."""
    if is_bundle(model):
        from bertnli_export.scorer import Scorer

        options.refuse(model, "a bundle, whose manifest")
        return Scorer(model, device=device)
    source = load(model, options)
    if not source.has_classifier:
        raise InputError(f"model {model}: no classifier in it", do="train it first: bertnli train RUN.yaml")
    from bertnli.model.predictor import TorchPredictor

    return TorchPredictor(source.build(), source.tokenizer, device, source.temperature)


def shared(given: ModelOptions, model: str, other: str) -> tuple[ModelOptions, ModelOptions]:
    """What a user gave for two models: each option goes to the models whose files do not specify it.

    An option that both specify goes to the first model, which then refuses it by name.
    """
    ours, theirs = _missing_options(model), _missing_options(other)
    for_other = {option: value for option, value in given._asdict().items() if option in theirs}
    for_model = {option: value for option, value in given._asdict().items() if option in ours or option not in theirs}
    return ModelOptions(**for_model), ModelOptions(**for_other)


def _missing_options(model: str) -> set[str]:
    if is_bundle(model):
        return set()
    path, arch = resolve_model(model)
    if run_of(path) is not None:
        return set()
    need("torch", "train")
    from bertnli.model import pretrained

    return pretrained.missing_options(path) - ({"arch"} if arch else set())


def temperature_writer(model: str) -> Callable[[Calibration], None]:
    """A function that stores a temperature in the bundle, the model folder, or a finished run's model folder.

    Raises InputError for any other model: a checkpoint, for example, stores none.
    """
    if is_bundle(model):
        from bertnli_export.bundle import update_manifest

        bundle = Path(model)
        temperature.check_writable(bundle)
        return lambda fitted: update_manifest(bundle, temperature=fitted.temperature)
    path = existing_path(model)
    result = None if path is None else result_of(path)
    folder = temperature.check_folder(str(result or model))
    return lambda fitted: temperature.keep(folder, fitted)
