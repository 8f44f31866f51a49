"""The result of a finished run: the report, and the model folder with its card."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor

from bertnli.common.files import new_folder
from bertnli.model import pretrained
from bertnli.model.classifier import PairClassifier
from bertnli.model.pretrained import Pretrained
from bertnli.report import licences, report
from bertnli.report.licences import notes_about
from bertnli.report.model_card import write_model_card
from bertnli.report.number_lines import NAMES, shown
from bertnli.report.provenance import provenance
from bertnli.run.config import RunConfig
from bertnli.run.data_config import File
from bertnli.run.folder import RunFolder, read_metrics
from bertnli.train.evaluations import Tallies, main_figure

_FILES: tuple[File, ...] = ("train", "eval")
_CARD_KEYS = {
    *("epochs", "max_steps", "global_batch_size", "learning_rate", "schedule", "warmup", "weight_decay"),
    *("max_grad_norm", "dropout", "max_length", "zero_stage", "seed"),
}
_NAMED_IF_CHANGED = {  # in the report and on the card
    *("schedule", "warmup", "warmup_steps", "betas", "eps", "layer_decay", "freeze", "gradient_checkpointing"),
    *("loss", "keep_layers", "metric_for_best"),
}


def write_result(
    folder: RunFolder,
    config: RunConfig,
    source: Pretrained,
    weights: dict[str, Tensor],
    tallies: Tallies,
    summary: dict[str, Any],
) -> None:
    """Write the report, then rename the model folder into place, which marks the run as finished; on one rank.

    weights: fp32, by our names. tallies: by the names of the evaluation sets as the user wrote them.
    """
    evaluations = {name: tally.to_json() for name, tally in tallies.items()}
    trained_on, evaluated_on = (list(dict.fromkeys(one.name for one in config.data.sources(file))) for file in _FILES)
    data = list(dict.fromkeys([*trained_on, *evaluated_on]))
    origin = provenance()

    model = PairClassifier(source.config)  # as loaded: the dropout of this run is not part of the model
    model.load_state_dict(weights)
    base = {"base_model": config.model, "base_sha256": source.sha256, "data": trained_on}
    if source.revision is not None:
        base["base_revision"] = source.revision
    base |= {key: value for key, value in asdict(licences.of_model(config.model)).items() if value is not None}
    if config.teacher is not None:
        base |= {"teacher": summary["teacher"]}
    with new_folder(folder.model) as partial:  # its final name means that the run is finished
        pretrained.save(model, source.tokenizer, partial, extra=base)
        settings = config.model_dump(mode="json", include=_CARD_KEYS, exclude_none=True)
        changed = config.model_dump(mode="json", include=_NAMED_IF_CHANGED, exclude_none=True, exclude_defaults=True)
        changed = {key: _in_words(value) for key, value in changed.items()}
        if of_labels := summary.get("label_weights"):
            changed |= {"weights of the labels": ", ".join(f"{name} {one:.4g}" for name, one in of_labels.items())}
        taught = {} if config.teacher is None else {"teacher": _in_words(config.teacher.model_dump())}
        found = {key: summary[key] for key in ("steps", "precision", "ranks")}
        write_model_card(
            partial,
            name=folder.path.name,
            family=source.config.family,
            outputs=source.config.outputs,
            hypothesis_only=source.tokenizer.settings.hypothesis_only,
            base_model=config.model,
            base_revision=source.revision,
            data=trained_on,
            evaluated_on=evaluated_on,
            settings={**settings, **changed, **taught, **found},
            evaluations=evaluations,
            rows_by_label=summary["rows_by_label"],
            sources=summary.get("sources", ()),
            provenance=origin,
        )
        figures = {
            "Training": f"{summary['steps']:,} steps, {summary['pairs_per_second']:.1f} pairs/s",
            "Started from": config.model if source.revision is None else f"{config.model}, commit {source.revision}",
        }
        if taught:
            figures["Taught by"] = taught["teacher"].removeprefix("model ")
        if changed:
            figures["Settings"] = ", ".join(f"{key}: {value}" for key, value in changed.items())
        if tallies:  # the first set decides
            held_out, tally = next(iter(tallies.items()))
            name, figure = main_figure(tally, config)
            title = NAMES.get(name, name)
            figures = {title[0].upper() + title[1:]: f"{shown(figure)} on {tally.rows:,} pairs, {held_out}", **figures}
        report.write_report(
            folder.report,
            title=f"bertnli run {folder.path.name}",
            figures=figures,
            metrics=read_metrics(folder.metrics_file),
            evaluations=evaluations,
            rows_by_label=summary["rows_by_label"],
            sources=summary.get("sources", ()),
            provenance={"model": str(folder.model), **origin},
            notes=notes_about(config.model, data),
        )


def _in_words(value: Any) -> Any:
    """A value of the run file as one line of a table; a map without its braces."""
    return ", ".join(f"{key} {_in_words(inner)}" for key, inner in value.items()) if isinstance(value, dict) else value
