"""The models that a person names on the command line: a run or checkpoint, a folder, a fetched name, a bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bertnli.common import temperature
from bertnli.common.errors import InputError
from bertnli.common.installed import need
from bertnli.fetch.resolve import resolve
from bertnli.run.folder import result_of, run_of

if TYPE_CHECKING:
    from bertnli.commands.eval import Model
    from bertnli.common.temperature import Calibration
    from bertnli.model.pretrained import Pretrained


class Unsaid(NamedTuple):
    """What a model's own files may not say, as a person gives it: `--arch` and `--labels` (comma-separated)."""

    arch: str | None = None
    labels: str | None = None

    def refuse(self, model: str, what: str) -> None:
        """Raises InputError if there is one, for a model whose files say it all."""
        for option, given in (("--arch", self.arch), ("--labels", self.labels)):
            if given is not None:
                raise InputError(option, found=f"{model}, {what} says it", do="leave it out")


def is_bundle(model: str) -> bool:
    return (Path(model) / "manifest.json").is_file()


def load(model: str, unsaid: Unsaid) -> Pretrained:
    """Weights to compute with in torch, or to export. Raises InputError and RunError as `pretrained.load` does."""
    need("torch", "train")
    from bertnli.model import pretrained
    from bertnli.model.classifier import D2L_ARCHITECTURES
    from bertnli.train.inputs import load_run_model

    path = resolve(model, "model")
    if run_of(path) is not None:
        unsaid.refuse(model, "a run, whose run file")
        return load_run_model(path, warn=lambda line: print(line, file=sys.stderr))
    labels = None if unsaid.labels is None else [name.strip() for name in unsaid.labels.split(",")]
    return pretrained.load(path, arch=unsaid.arch or (model if model in D2L_ARCHITECTURES else None), labels=labels)


def predictor(model: str, unsaid: Unsaid, device: str) -> Model:
    """What `bertnli eval` measures: a bundle's session, or a checkpoint in torch."""
    if is_bundle(model):
        from bertnli_export.scorer import Scorer

        unsaid.refuse(model, "a bundle, whose manifest")
        return Scorer(model, device=device)
    source = load(model, unsaid)
    if not source.has_classifier:
        raise InputError(f"model {model}: no classifier in it", do="train it first: bertnli train RUN.yaml")
    from bertnli.model.predictor import TorchPredictor

    return TorchPredictor(source.build(), source.tokenizer, device, source.temperature)


def shared(given: Unsaid, model: str, other: str) -> tuple[Unsaid, Unsaid]:
    """What a person gave for two models: each option goes to those whose files do not say it.

    Where both say it, it goes to the first, which then refuses it by name.
    """
    ours, theirs = _unsaid_by(model), _unsaid_by(other)
    for_other = {option: value for option, value in given._asdict().items() if option in theirs}
    for_model = {option: value for option, value in given._asdict().items() if option in ours or option not in theirs}
    return Unsaid(**for_model), Unsaid(**for_other)


def _unsaid_by(model: str) -> set[str]:
    if is_bundle(model) or run_of(path := resolve(model, "model")) is not None:
        return set()
    need("torch", "train")
    from bertnli.model import pretrained
    from bertnli.model.classifier import D2L_ARCHITECTURES

    return pretrained.unsaid(path) if model not in D2L_ARCHITECTURES else set()


def keeper(model: str) -> Callable[[Calibration], None]:
    """What keeps a temperature in the bundle or the model folder, a finished run's own among them; a checkpoint keeps
    none. Raises InputError if nothing can."""
    if is_bundle(model):
        from bertnli_export.bundle import update_manifest

        bundle = Path(model)
        temperature.check_writable(bundle)
        return lambda fitted: update_manifest(bundle, temperature=fitted.temperature)
    folder = temperature.check_folder(str(result_of(Path(model).expanduser()) or model))
    return lambda fitted: temperature.keep(folder, fitted)
