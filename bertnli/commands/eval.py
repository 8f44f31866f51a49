"""`bertnli eval`: opens the data, fits a temperature, measures the model on each data set, writes the results.

evaluation/evaluate.py and metrics.py compute the results; evaluation/data_sets.py adds what a data set needs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bertnli.common.errors import InputError
from bertnli.common.progress import progress, say
from bertnli.common.temperature import Calibration
from bertnli.data.columns import Columns
from bertnli.data.dialect import Dialect
from bertnli.data.tokenizer import PairTokenizer
from bertnli.evaluation.calibrate import calibrate as fit_temperature
from bertnli.evaluation.data_sets import LabelledSet, expanded, open_all, open_set
from bertnli.evaluation.evaluate import ComparedModel, Predictor, outputs_of
from bertnli.report import summary
from bertnli.report.licences import notes_about
from bertnli.report.provenance import provenance
from bertnli.report.rendering import write_file
from bertnli.report.report import write_report
from bertnli.report.summary import notes
from bertnli.run.folder import run_of


class Model(Predictor, Protocol):
    """A checkpoint in torch, or an ONNX bundle."""

    @property
    def tokenizer(self) -> PairTokenizer:
        """Its settings say which columns the model reads."""


class NamedModel(NamedTuple):
    """A model and the name that the user gave it."""

    name: str
    model: Model


def evaluation(
    name: str,
    model: Model,
    data: Sequence[str],
    *,
    calibrate: str | None = None,
    keep: Callable[[Calibration], None] | None = None,
    against: NamedModel | None = None,
    columns: Columns | None = None,
    label_names: Mapping[str, str] | None = None,
    dialect: Dialect | None = None,
    skip_bad_rows: bool = False,
    shuffle_premises: bool = False,
    group: str | None = None,
    report: Path | None = None,
) -> dict[str, Any]:
    """Measure `model`, which the user calls `name`, on all sets of `data`, and print the results.

    calibrate: held-out rows to fit a temperature on; `keep` is called with it when everything else has succeeded.
    label_names: text of a label cell -> label. dialect: of all files. group: the column by which rows are ranked.
    report: a folder for report.html and evaluation.json.

    Returns the result of `LabelledSet.measure` for one set; for several sets, `model`, `evaluations` (name -> result)
    and `skipped` (name -> reason). Raises InputError and RunError as `open_set`, `LabelledSet.measure` and
    `calibrate.calibrate` do. Errors in any set, or in the folder, are found before the first pair is scored.
    """
    names = expanded(data)
    if len(names) > 1 and (calibrate or against):
        option = "--calibrate" if calibrate else "--against"
        raise InputError(option, found=f"{len(names)} data sets", expected="one", do="give one DATA")
    settings = model.tokenizer.settings
    problem_type = outputs_of(model).problem_type
    read = partial(open_set, columns=columns, label_names=label_names, dialect=dialect, problem_type=problem_type)
    open_ = partial(read, shuffle_premises=shuffle_premises)
    sets, skipped = open_all(names, partial(open_, prefer_parse=settings.reads_parse))
    said: set[str] = set()
    _say_notes(sets, said)
    if report is not None:
        _make_folder(report)
    other = None if against is None else _compared(against, sets[0], open_)
    fitted = None
    if calibrate is not None:
        held_out = read(calibrate, prefer_parse=settings.reads_parse)
        _say_notes([held_out], said)
        fitted = _fitted(model, held_out, sets[0], skip_bad_rows)
        model.temperature = fitted.temperature
    if len(sets) > 1:  # `measure` checks a single one
        for one in sets:
            one.check(model, skip_bad_rows, group)
    evaluations: dict[str, dict[str, Any]] = {}
    for one in sets:
        with progress("pairs") as show:
            evaluations[one.name] = found = one.measure(
                model,
                reads_premises=not settings.hypothesis_only,
                skip_bad_rows=skip_bad_rows,
                against=other,
                group=group,
                progress=lambda done, total: show(done, "evaluated", total),
            )
        if fitted is not None:
            found["calibration"] = vars(fitted)
        if len(names) > 1:  # as they come: the next one may take long
            print(f"{one.name}:")
            _print(found)
    _say_notes(sets if calibrate is None else [*sets, held_out], said)
    for unfetched, reason in skipped.items():
        print(f"{unfetched}: skipped, because it cannot be fetched: {reason}")
    if len(names) > 1:
        found = {"model": name, "evaluations": evaluations, "skipped": skipped}
    try:
        if report is not None:
            _write(report, name, evaluations, skipped)
            write_file(report / "evaluation.json", json.dumps(found, indent=1))
        if fitted is not None and keep is not None:  # last, so that the results exist even if this fails
            keep(fitted)
    finally:
        if len(names) == 1:
            _print(found)
    if fitted is not None and keep is not None:
        print(f"the temperature, {fitted.temperature:.4g}, is stored in {name}")
    return found


def _say_notes(sets: Sequence[LabelledSet], said: set[str]) -> None:
    """Print how the files are read, as far as it is not `said` yet."""
    for note in (note for one in sets for note in one.file.notes):
        if note not in said:
            say(note)
            said.add(note)


def _make_folder(report: Path) -> None:
    """Create the folder for the report. Raises InputError if that fails, or if it is the folder of a run."""
    if run_of(report) is not None:
        found, do = "a run's folder, which has its own report.html", f"give another folder, such as {report / 'test'}"
        raise InputError(f"--report {report}", found=found, do=do)
    try:
        report.mkdir(parents=True, exist_ok=True)
        found = "" if os.access(report, os.W_OK) else "a folder without write permission"
    except OSError as error:
        found = "a file" if report.is_file() else error.strerror or str(error)
    if found:
        raise InputError(f"--report {report}", found=found, expected="a folder, or a path for a new one")


def _compared(other: NamedModel, given: LabelledSet, open_: Callable[..., LabelledSet]) -> ComparedModel:
    """The other model and the same data, opened again because that model may read other columns."""
    if not given.file.rereadable:
        raise InputError(
            f"--against: {given.file.name} is a pipe, but must be read twice", do="write it to a file first"
        )
    again = open_(given.given or given.name, prefer_parse=other.model.tokenizer.settings.reads_parse)
    return ComparedModel(other.name, other.model, again.file)


def _fitted(model: Model, held_out: LabelledSet, measured: LabelledSet, skip_bad_rows: bool) -> Calibration:
    with progress("pairs") as show:
        return fit_temperature(
            model,
            held_out,
            apart_from=measured,
            skip_bad_rows=skip_bad_rows,
            progress=lambda done, total: show(done, "scored for calibration", total),
        )


def _print(found: Mapping[str, Any]) -> None:
    print("\n".join([*summary.lines(found), *notes(found)]))
    if warning := summary.label_order_warning(found):
        say(f"warning: {warning}")


def _write(folder: Path, name: str, evaluations: Mapping[str, dict[str, Any]], skipped: Mapping[str, str]) -> None:
    """Write report.html with all evaluations."""
    several = len(evaluations) + len(skipped) > 1
    figures = {}
    for data, one in evaluations.items():
        figure, value = summary.headline(one)
        figures[f"{figure} on {data}" if several else figure] = value
        if not several:
            figures["Speed"] = f"{one['pairs_per_second']:.1f} pairs/s"
    figures |= {f"Skipped: {data}": reason for data, reason in skipped.items()}
    remarks = [f"{data}: {line.strip()}" for data, one in evaluations.items() for line in notes(one)]
    write_report(
        folder / "report.html",
        title=f"{name} on {', '.join(evaluations)}",
        figures=figures,
        evaluations=evaluations,
        provenance=provenance(),
        notes=[*remarks, *notes_about(name, list(evaluations))],
    )
