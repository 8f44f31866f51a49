"""A run's report.html, which opens anywhere without a network or scripts, and the model folder's card, README.md.

Both are templates (templates/) filled with what `evaluate` measured and the rows of metrics.jsonl; a section with
nothing to show is left out. All text from data, labels and commands is escaped.
"""

from __future__ import annotations

import datetime
import html
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bertnli.common.errors import RunError
from bertnli.common.files import write_text
from bertnli.common.installed import installed
from bertnli.evaluation import slices
from bertnli.fetch import catalog
from bertnli.fetch.entry import Entry, HubModel
from bertnli.report import charts, licences, summary

if TYPE_CHECKING:
    import jinja2

Json = Mapping[str, Any]  # an Evaluation's or a Tally's to_json(), a row of metrics.jsonl

_LIBRARIES = (
    "bertnli",
    "torch",
    "deepspeed",
    "transformers",
    "tokenizers",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "pyarrow",
)
_HUB_LICENCES = {"Apache-2.0": "apache-2.0", "CC BY-SA 4.0": "cc-by-sa-4.0", "MIT": "mit"}
# By the first part of a catalogue name.
_HUB_DATASETS = {"snli": "stanfordnlp/snli", "mnli": "nyu-mll/multi_nli", "anli": "facebook/anli"}


def write_report(
    path: Path,
    *,
    title: str,
    figures: Mapping[str, str],
    metrics: Sequence[Json] = (),
    evaluations: Mapping[str, Json] = {},
    provenance: Mapping[str, str] = {},
    notes: Sequence[str] = (),
) -> None:
    """Write one self-contained HTML file, whole or not at all.

    `figures`: what comes first, name to text. `metrics`: rows of metrics.jsonl, drawn as curves. `evaluations`: by the
    data's name, what `Evaluation.to_json` or `Tally.to_json` gave. `provenance`: see `provenance()`. `notes`: licences
    and disclosures (`notes_about`); addresses in them become links.

    Raises RunError if the file cannot be written.
    """
    page = _templates(autoescape=True).get_template("report.html.j2")
    text = page.render(
        title=title,
        figures=figures,
        charts=training_charts(metrics),
        size=charts,
        reliability=charts.reliability,
        swapped=summary.swapped,
        slice_titles=slices.TITLES,
        evaluations=evaluations,
        provenance=provenance,
        notes=notes,
    )
    write_file(path, text.lstrip())


def training_charts(metrics: Sequence[Json]) -> list[charts.Chart]:
    """Loss, accuracy, learning rate and speed over the optimizer steps, as far as `metrics` has them."""
    loss = charts.Series.of("each step", metrics, "loss", "faint")
    speed = charts.Series.of("each step", metrics, "pairs_per_second", "faint")
    drawn = [
        charts.chart(
            "Loss",
            [loss, loss.smoothed("training, mean"), charts.Series.of("evaluation", metrics, "eval_loss", "marks")],
        ),
        charts.chart("Accuracy", [charts.Series.of("evaluation", metrics, "eval_accuracy", "marks")], percent=True),
        charts.chart("Learning rate", [charts.Series.of("learning rate", metrics, "learning_rate")], from_zero=True),
        charts.chart("Pairs per second", [speed, speed.smoothed("training, mean")], from_zero=True),
    ]
    return [chart for chart in drawn if chart is not None]


def write_model_card(
    folder: Path,
    *,
    name: str,
    family: Literal["bert", "d2l"],
    labels: Sequence[str],
    hypothesis_only: bool = False,
    base_model: str,
    data: Sequence[str],
    settings: Mapping[str, object],
    evaluations: Mapping[str, Json] = {},
    provenance: Mapping[str, str] = {},
) -> None:
    """Write `folder`/README.md, with the front matter that the model hub reads.

    `base_model` and `data` are what the run file says: names of the catalogue, hub ids or paths. `settings`: the
    hyper-parameters, by their names in the run file. `hypothesis_only`: the model sees no premise.

    Raises RunError if the file cannot be written.
    """
    from huggingface_hub import EvalResult, ModelCardData

    base = _entry(base_model, "model")
    repos = [source.repo for source in base.sources if isinstance(source, HubModel)] if base else []
    front = ModelCardData(
        language="en" if any(_hub_dataset(one) for one in data) else None,
        license=_hub_licence(licences.of_model(base_model).licence),
        library_name="transformers" if family == "bert" else "bertnli",
        pipeline_tag="text-classification",
        tags=["natural-language-inference", "bert", "bertnli"] + (["d2l"] if family == "d2l" else []),
        base_model=repos[0] if repos else None,
        datasets=sorted({hub_id for one in data if (hub_id := _hub_dataset(one))}) or None,
        metrics=["accuracy", "f1"],
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
            for kind, metric, key in (("accuracy", "accuracy", "accuracy"), ("f1", "macro F1", "macro_f1"))
        ],
    )
    card = _templates(autoescape=False).get_template("model_card.md.j2")
    text = card.render(
        front=front.to_yaml(),
        name=name,
        family=family,
        labels=labels,
        hypothesis_only=hypothesis_only,
        base_model=base_model,
        data=data,
        settings=settings,
        evaluations=evaluations,
        provenance=provenance,
        notes=notes_about(base_model, [*data, *(one for one in evaluations if _entry(one, "dataset"))]),
    )
    write_file(folder / "README.md", text)


def notes_about(model: str, data: Sequence[str]) -> list[str]:
    """What must be said of a model and of data sets: their licences, and what the catalogue discloses of them."""
    notes = []
    for name, kind in [(model, "model"), *((one, "dataset") for one in dict.fromkeys(data))]:
        entry = _entry(name, kind)
        known = licences.of_model(name) if kind == "model" else licences.Terms(entry.licence if entry else None)
        if known.licence is None:
            notes.append(f"{name}: the licence is not known here; ask whoever it is from.")
        else:
            notes.append(f"{name}: {f'{entry.about}. ' if entry else ''}Licence: {known.licence}.")
        if known.disclosure:
            notes.append(known.disclosure)
    return notes


def provenance() -> dict[str, str]:
    """The command, time, machine and library versions of this process. Imports no library to find out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "command": shlex.join(sys.argv),
        "time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": platform.platform(),
        "processor": f"{_processor()}, {cores} cores for this process",
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["GPU"] = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    return facts | {"python": platform.python_version()} | installed(_LIBRARIES)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        lines = ""
    found = re.search(r"^model name\s*:\s*(.+)$", lines, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _entry(name: str, kind: str) -> Entry | None:
    """The catalogue's entry of a name in a run file, where a path that exists comes before a name."""
    entry = None if Path(name).exists() else catalog.lookup(name)
    return entry if entry is not None and entry.kind == kind else None


def _hub_licence(licence: str | None) -> str:
    """The model hub's id of a licence in the catalogue, or of one that is such an id already."""
    ids = _HUB_LICENCES | {one: one for one in _HUB_LICENCES.values()}
    return ids.get(licence or "", "other")


def _hub_dataset(name: str) -> str | None:
    """The model hub's id of a data set in the catalogue."""
    return _HUB_DATASETS.get(name.split("-")[0]) if _entry(name, "dataset") else None


def _templates(*, autoescape: bool) -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bertnli.report"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = _markdown
    return environment


def _markdown(text: object) -> str:
    """Any text as plain words of a Markdown paragraph or table cell."""
    return html.escape(re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", " ".join(str(text).split())), quote=False)


def write_file(path: Path, text: str) -> None:
    """Write it whole or not at all, with its folder. Raises RunError if the disk does not take it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}", do="make room, or give another folder") from None
