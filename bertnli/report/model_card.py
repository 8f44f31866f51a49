"""The model card: README.md of a model folder, with the front matter that the model hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bertnli.data.labelled import RowsByLabel
from bertnli.data.outputs import Outputs, ProblemType
from bertnli.fetch.catalog import lookup_unless_path
from bertnli.fetch.entry import HubDataSet, HubModel
from bertnli.report import licences, number_lines
from bertnli.report.licences import notes_about
from bertnli.report.rendering import Json, templates, write_file

_HUB_LICENCES = {"Apache-2.0": "apache-2.0", "CC BY-SA 4.0": "cc-by-sa-4.0", "MIT": "mit"}

# By the first part of a catalogue name.
_HUB_DATASETS = {
    "snli": "stanfordnlp/snli",
    "mnli": "nyu-mll/multi_nli",
    "anli": "facebook/anli",
    "xnli": "facebook/xnli",
    **dict.fromkeys(("qqp", "stsb", "rte", "qnli"), "nyu-mll/glue"),
    **dict.fromkeys(("ocnli", "cmnli"), "clue/clue"),
}

_METRICS: dict[ProblemType, list[str]] = {  # the hub's names
    "single_label_classification": ["accuracy", "f1"],
    "multi_label_classification": ["f1"],
    "regression": ["pearsonr", "spearmanr"],
}
_FIGURES: dict[ProblemType, tuple[tuple[str, str, str], ...]] = {  # the hub's type, the name, our key
    "single_label_classification": (("accuracy", "accuracy", "accuracy"), ("f1", "macro F1", "macro_f1")),
    "multi_label_classification": (("f1", "micro F1", "micro_f1"), ("f1", "macro F1", "macro_f1")),
    "regression": (("pearsonr", "Pearson's correlation", "pearson"), ("spearmanr", "Spearman's", "spearman")),
}


def write_model_card(
    folder: Path,
    *,
    name: str,
    family: str,
    outputs: Outputs,
    hypothesis_only: bool = False,
    base_model: str,
    base_revision: str | None = None,
    data: Sequence[str],
    evaluated_on: Sequence[str] = (),
    settings: Mapping[str, object],
    evaluations: Mapping[str, Json] = {},
    rows_by_label: Mapping[str, RowsByLabel] = {},
    sources: Sequence[Json] = (),
    provenance: Mapping[str, str] = {},
) -> None:
    """Write `folder`/README.md, with the front matter that the model hub reads.

    base_model, data, evaluated_on: as in the run file, so names of the catalogue, hub ids or paths.
    base_revision: the base model's commit on the model hub. settings: the hyper-parameters, by their names in the run
    file. hypothesis_only: the model sees no premise. evaluations: data set -> results (`to_json`). rows_by_label: of
    each data file. sources: of several data sets, or weighted ones, how much of each an epoch has
    (`TrainingData.table`). provenance: see `provenance()`.

    Raises RunError if the file cannot be written.
    """
    from huggingface_hub import EvalResult, ModelCardData

    base = lookup_unless_path(base_model, "model")
    repos = [source.repo for source in base.sources if isinstance(source, HubModel)] if base else []
    nli = ["natural-language-inference"] * (outputs.problem_type == "single_label_classification")
    front = ModelCardData(
        language=_languages(data),
        license=_hub_licence(licences.of_model(base_model).licence),
        library_name="bertnli" if family == "d2l" else "transformers",
        pipeline_tag=_pipeline_tag(outputs),
        tags=[*nli, *(["bert", "bertnli", "d2l"] if family == "d2l" else [family, "bertnli"])],
        base_model=repos[0] if repos else None,
        datasets=sorted({hub_id for one in data if (hub_id := _hub_dataset(one))}) or None,
        metrics=_METRICS[outputs.problem_type],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=_hub_dataset(dataset) or "custom",
                dataset_name=dataset,
                metric_type=kind,
                metric_name=metric,
                metric_value=round(evaluation[key], 4),
            )
            for dataset, evaluation in evaluations.items()
            for kind, metric, key in _FIGURES[outputs.problem_type]
            if evaluation[key] is not None
        ],
    )
    known = [one for one in evaluations if lookup_unless_path(one, "dataset")]
    card = templates(autoescape=False).get_template("model_card.md.j2")
    text = card.render(
        front=front.to_yaml(),
        name=name,
        family=family,
        outputs=outputs,
        labels=outputs.names,
        number_figures=number_lines.known,
        hypothesis_only=hypothesis_only,
        base_model=base_model,
        base_revision=base_revision,
        data=data,
        settings=settings,
        evaluations=evaluations,
        rows_by_label=rows_by_label,
        sources=sources,
        provenance=provenance,
        notes=notes_about(base_model, [*data, *evaluated_on, *known]),
    )
    write_file(folder / "README.md", text)


def _languages(data: Sequence[str]) -> str | list[str] | None:
    """Of those data sets that the model hub has."""
    entries = [lookup_unless_path(one, "dataset") for one in data if _hub_dataset(one)]
    found = sorted({entry.language for entry in entries if entry is not None and entry.language is not None})
    return found[0] if len(found) == 1 else found or None


class Graph(Protocol):
    """What a bundle's manifest says about one of its graphs."""

    precision: Any
    opset: int
    parity: Any


def bundle_card(
    *,
    name: str,
    family: str,
    outputs: Outputs,
    licence: str | None,
    disclosure: str | None,
    max_length: int,
    graphs: Mapping[str, Graph],
) -> str:
    """The text of a bundle's model card. graphs: what its manifest says about each, by the file's path."""
    from huggingface_hub import ModelCardData

    front = ModelCardData(
        license=_hub_licence(licence),
        library_name="bertnli" if family == "d2l" else "sentence-transformers",
        pipeline_tag=_pipeline_tag(outputs),
        tags=["onnx", family, "bertnli"],
    )
    template = templates(autoescape=False).get_template("bundle_card.md.j2")
    return template.render(
        front=front.to_yaml(),
        name=name,
        outputs=outputs,
        licence=licence,
        disclosure=disclosure,
        max_length=max_length,
        graphs=graphs,
        shared=any(file.startswith("onnx/") for file in graphs),
    )


def _pipeline_tag(outputs: Outputs) -> str:
    return "text-ranking" if outputs.problem_type == "regression" else "text-classification"


def _hub_licence(licence: str | None) -> str:
    """The model hub's id of a licence; "other" if the hub has no id that is known here."""
    ids = _HUB_LICENCES | {one: one for one in _HUB_LICENCES.values()}
    return ids.get(licence or "", "other")


def _hub_dataset(name: str) -> str | None:
    """The model hub's id of a data set; None if it is neither in the catalogue nor on the hub."""
    entry = lookup_unless_path(name, "dataset")
    if entry is None:
        return None
    on_the_hub = [source.repo for source in entry.sources if isinstance(source, HubDataSet)]
    return on_the_hub[0] if on_the_hub else _HUB_DATASETS.get(name.split("-")[0])
