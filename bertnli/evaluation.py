"""`bertnli eval`, from top to bottom: the data opened, a temperature fitted, each set measured, what was found written.

The figures themselves are evaluate.py's and tally.py's; what a set asks for beyond them is in sets.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bertnli import report as reports
from bertnli import summary
from bertnli.calibrate import Calibration
from bertnli.calibrate import calibrate as fit_temperature
from bertnli.columns import Columns
from bertnli.errors import InputError
from bertnli.evaluate import Other, Predictor
from bertnli.files import write_text
from bertnli.progress import progress
from bertnli.sets import LabelledSet, expanded, notes, open_all, open_set
from bertnli.tokens import PairTokenizer


class Model(Predictor, Protocol):
    """A checkpoint in torch, or an ONNX bundle's session."""

    @property
    def tokenizer(self) -> PairTokenizer:
        """Its settings say which columns the model reads."""


class Rival(NamedTuple):
    """A model to compare with, and its name."""

    name: str
    model: Model


def evaluation(
    name: str,
    model: Model,
    data: Sequence[str],
    *,
    calibrate: str | None = None,
    keep: Callable[[Calibration], None] | None = None,
    against: Rival | None = None,
    columns: Columns | None = None,
    skip_bad_rows: bool = False,
    shuffle_premises: bool = False,
    report: Path | None = None,
) -> dict[str, Any]:
    """Measure `model`, which a person calls `name`, on every set of `data`, and print what a person reads.

    calibrate: held-out rows to fit a temperature on; `keep` is called with it once everything has gone well. report:
    a folder for report.html and evaluation.json.

    Returns what `LabelledSet.measure` gives of the one set; of several, `model`, `evaluations` and `skipped` by name.
    Raises InputError and RunError as `open_set`, `LabelledSet.measure` and `calibrate.calibrate` do.
    """
    names = expanded(data)
    if len(names) > 1 and (calibrate or against):
        option = "--calibrate" if calibrate else "--against"
        raise InputError(option, found=f"{len(names)} data sets", expected="one", do="give one DATA")
    settings = model.tokenizer.settings
    open_ = partial(open_set, columns=columns, shuffle_premises=shuffle_premises)
    sets, skipped = open_all(names, partial(open_, prefer_parse=settings.reads_parse))
    other = None if against is None else _other(against, sets[0], open_)
    fitted = None
    if calibrate is not None:
        held_out = open_set(calibrate, columns, prefer_parse=settings.reads_parse)
        fitted = _fitted(model, held_out, sets[0], skip_bad_rows)
        model.temperature = fitted.temperature
    evaluations: dict[str, dict[str, Any]] = {}
    for one in sets:
        with progress("pairs") as show:
            evaluations[one.name] = found = one.measure(
                model,
                reads_premises=not settings.hypothesis_only,
                skip_bad_rows=skip_bad_rows,
                against=other,
                progress=lambda done, total: show(done, "evaluated"),
            )
        if fitted is not None and keep is not None:
            keep(fitted)
            found["calibration"] = vars(fitted)
        if len(names) > 1:
            print(f"{one.name}:")
        _print(found)
    for unfetched, reason in skipped.items():
        print(f"{unfetched}: skipped, as it cannot be fetched: {reason}")
    if len(names) > 1:
        found = {"model": name, "evaluations": evaluations, "skipped": skipped}
    if report is not None:
        _write(report, name, evaluations, skipped)
        write_text(report / "evaluation.json", json.dumps(found, indent=1))
    return found


def _other(rival: Rival, given: LabelledSet, open_: Callable[..., LabelledSet]) -> Other:
    """The rival with the same data, opened once more: it may read other columns."""
    if not Path(given.file.path).is_file():
        raise InputError(f"--against: {given.file.name} is a pipe, and is read twice", do="write it to a file first")
    again = open_(given.name, prefer_parse=rival.model.tokenizer.settings.reads_parse)
    return Other(rival.name, rival.model, again.file)


def _fitted(model: Model, held_out: LabelledSet, measured: LabelledSet, skip_bad_rows: bool) -> Calibration:
    with progress("pairs") as show:
        return fit_temperature(
            model,
            held_out,
            apart_from=measured,
            skip_bad_rows=skip_bad_rows,
            progress=lambda done, total: show(done, "to calibrate with"),
        )


def _print(found: Mapping[str, Any]) -> None:
    print("\n".join([*summary.lines(found), *notes(found)]))
    if swapped := summary.swapped(found):
        print(f"warning: {swapped}", file=sys.stderr)


def _write(folder: Path, name: str, evaluations: Mapping[str, dict[str, Any]], skipped: Mapping[str, str]) -> None:
    """report.html of every evaluation."""
    several = len(evaluations) + len(skipped) > 1
    figures = {}
    for data, one in evaluations.items():
        low, high = one["accuracy_interval"]
        accuracy = f"{one['accuracy']:.4f} ({low:.4f} to {high:.4f}) on {one['rows']:,} rows"
        figures[f"Accuracy on {data}" if several else "Accuracy"] = accuracy
        if not several:
            figures["Speed"] = f"{one['pairs_per_second']:.1f} pairs/s"
    figures |= {f"Skipped: {data}": reason for data, reason in skipped.items()}
    said = [f"{data}: {line.strip()}" for data, one in evaluations.items() for line in notes(one)]
    reports.write_report(
        folder / "report.html",
        title=f"{name} on {', '.join(evaluations)}",
        figures=figures,
        evaluations=evaluations,
        provenance=reports.provenance(),
        notes=[*said, *reports.notes_about(name, list(evaluations))],
    )
