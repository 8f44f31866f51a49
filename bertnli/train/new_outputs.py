"""The outputs of a run's result: those of the starting model's classifier, or what the run file asks for."""

from __future__ import annotations

from dataclasses import replace

from bertnli.common.errors import InputError
from bertnli.data.labels import check_names
from bertnli.data.outputs import SCORE, Outputs
from bertnli.model.pretrained import Pretrained
from bertnli.run.config import RunConfig
from bertnli.run.loss_config import unfit_keys


def with_outputs(source: Pretrained, config: RunConfig) -> Pretrained:
    """The starting model; without a classifier it has the outputs that a new one gets, and a note of that.

    Raises InputError for keys of the run file that do not go with the outputs.
    """
    outputs = source.config.outputs if source.has_classifier else _new(source, config)
    for key, meant in unfit_keys(config.loss, config.teacher, config.metric_for_best, outputs.problem_type):
        raise InputError(
            key,
            found=f"a model for problem_type: {outputs.problem_type}",
            expected=f"one for problem_type: {meant}",
            do=f"set problem_type: {meant}, or remove the key",
        )
    if source.has_classifier:
        return source
    new = replace(
        source.config, labels=outputs.names, problem_type=outputs.problem_type, output_activation=outputs.activation
    )
    note = f"{config.model}: a new classifier is initialised, for {_described(outputs, config)}"
    return replace(source, config=new, notes=(*source.notes, note))


def _new(source: Pretrained, config: RunConfig) -> Outputs:
    problem = config.problem_type or source.config.problem_type
    if problem == "regression":
        return Outputs((SCORE,), problem, "sigmoid" if config.loss.kind == "bce" else "identity")
    if problem == "single_label_classification":
        return Outputs(source.config.labels)
    if config.labels is None:
        raise InputError(
            f"problem_type: {problem}",
            found="no labels",
            expected="the names of the new classifier's labels",
            do="set labels: [one, another]",
        )
    return Outputs(check_names(config.labels, "labels"), problem, "sigmoid")


def _described(outputs: Outputs, config: RunConfig) -> str:
    if outputs.problem_type == "regression":
        default = "" if config.loss.kind else ", as transformers does by default; loss: bce is for scores from 0 to 1"
        return f"one score, trained with loss: {config.loss.kind or 'mse'}{default}"
    several = "independent labels: " if outputs.problem_type == "multi_label_classification" else ""
    return several + ", ".join(outputs.names)
