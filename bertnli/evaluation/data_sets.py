"""Labelled data sets by name or path, read and evaluated as the catalogue's schema says.

`open_set` opens a data set. `LabelledSet.measure` evaluates a model on it: it translates label names, merges the
model's labels if the data set has fewer classes, and reports accuracy by the columns that the catalogue names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import existing_path
from bertnli.data.class_names import by_class
from bertnli.data.columns import Columns
from bertnli.data.dialect import Dialect, usual
from bertnli.data.labels import UNKNOWN, LabelTable
from bertnli.data.outputs import Outputs, ProblemType
from bertnli.data.pairs import PairFile
from bertnli.data.unknown_labels import UnknownLabelsError
from bertnli.evaluation.accuracy_by_column import AccuracyByColumn
from bertnli.evaluation.column_values import Groups
from bertnli.evaluation.evaluate import (
    ComparedModel,
    Predictor,
    check_labelled_rows,
    evaluate,
    outputs_of,
    tokenizer_of,
)
from bertnli.evaluation.evaluate_numbers import evaluate_numbers
from bertnli.evaluation.merged_classes import MergedClasses, two_classes
from bertnli.evaluation.shuffled_premises import SEED, ShuffledPremises
from bertnli.fetch import catalog
from bertnli.fetch.entry import DataSetSchema
from bertnli.fetch.resolve import NotFetchedError, resolve_data, shown_name


@dataclass(frozen=True)
class LabelledSet:
    name: str  # as the user gave it, but of a URL without what may be secret
    file: PairFile
    schema: DataSetSchema
    given: str = ""  # by the user

    def measure(self, predictor: Predictor, **options: Any) -> dict[str, Any]:
        """What `_measure` returns, and of a predictor that counts them `truncated`, the pairs that it cut, with its
        `max_length` in tokens. Takes its arguments, and raises as it does."""
        before, tokenizer = getattr(predictor, "truncated", None), tokenizer_of(predictor)
        found = self._measure(predictor, **options)
        if before is not None and tokenizer is not None:
            found |= {"truncated": getattr(predictor, "truncated", 0) - before, "max_length": tokenizer.max_length}
        return found

    def _measure(
        self,
        predictor: Predictor,
        *,
        reads_premises: bool = True,
        skip_bad_rows: bool = False,
        against: ComparedModel | None = None,
        group: str | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a model. Returns what `Evaluation.to_json` returns, and these keys if they apply: `classes`, class
        -> labels of the model; `by_column` (see accuracy_by_column.py); `premises`, `shuffled` (with `seed`) or `not
        read`. For a model that gives a score, or independent labels, what `evaluate_numbers` returns, and `premises`.

        group: the column by which the rows are ranked, for a model that gives a score. reads_premises: False for a
        hypothesis-only model. Raises as `evaluate` does, and InputError if the model's
        labels cannot be mapped to the set's classes.
        """
        found: dict[str, Any] = {}
        if not reads_premises:
            if isinstance(self.file, ShuffledPremises):
                raise InputError("--shuffle-premises", found="a model that reads no premises", do="omit it")
            found["premises"] = "not read"
        if isinstance(self.file, ShuffledPremises):
            found |= {"premises": "shuffled", "seed": SEED}
        outputs = outputs_of(predictor)
        _check_ranks(group, outputs)
        if outputs.problem_type != "single_label_classification":
            if against is not None:
                expected = "models that give a pair one label: two are compared by their predicted labels"
                raise InputError(f"--against {against.name}", expected=expected, do="evaluate each of the two alone")
            names = self.schema.label_names
            options: dict[str, Any] = {"skip_bad_rows": skip_bad_rows, "label_names": names, "progress": progress}
            return evaluate_numbers(predictor, self.file, group=group, **options) | found
        predictor = self._merged(predictor)
        if isinstance(predictor, MergedClasses):
            found["classes"] = predictor.members
        if against is not None:
            against = against._replace(predictor=self._merged(against.predictor))
        tables = [AccuracyByColumn(self.file, column, predictor.labels) for column in self.schema.slices]
        try:
            evaluation = evaluate(
                predictor,
                self.file,
                skip_bad_rows=skip_bad_rows,
                label_names=self.schema.label_names,
                against=against,
                also=[table.add for table in tables],
                progress=progress,
            )
        except UnknownLabelsError as error:
            return self._in_two_classes(predictor.labels, error).measure(
                predictor,
                reads_premises=reads_premises,
                skip_bad_rows=skip_bad_rows,
                against=against,
                progress=progress,
            )
        if tables:
            found["by_column"] = {table.column: table.to_json() for table in tables}
        return evaluation.to_json() | found

    def check(self, predictor: Predictor, skip_bad_rows: bool = False, group: str | None = None) -> None:
        """Raise the errors that `measure` raises for the set's rows, without scoring them."""
        outputs = outputs_of(predictor)
        _check_ranks(group, outputs)
        if outputs.problem_type != "single_label_classification":
            names, problem = self.schema.label_names, outputs.problem_type
            pairs, total = check_labelled_rows(
                self.file, outputs.names, skip_bad_rows, names, problem, tokenizer_of(predictor)
            )
            if group is not None and total is not None:
                Groups(self.file, group).check(pairs)
            return
        labels = self._merged(predictor).labels
        try:
            names = self.schema.label_names
            check_labelled_rows(self.file, labels, skip_bad_rows, names, tokenizer=tokenizer_of(predictor))
        except UnknownLabelsError as error:
            self._in_two_classes(labels, error).check(predictor, skip_bad_rows)

    def _merged(self, predictor: Predictor) -> Predictor:
        """The predictor itself, or `MergedClasses` of it if the set has other classes than the model's labels."""
        classes = self.schema.classes or two_classes(predictor.labels, self.schema.label_names.values()) or {}
        table = LabelTable(tuple(classes.values()))
        if not classes or all(table.index(label) != UNKNOWN for label in predictor.labels):
            return predictor
        return MergedClasses(predictor, classes, self.name)

    def _in_two_classes(self, labels: Sequence[str], error: UnknownLabelsError) -> LabelledSet:
        """The set, with its two classes if these explain the unknown labels. Raises the error again if not."""
        classes = two_classes(labels, [*error.unknown, *error.used]) if self.file.rereadable else None
        if classes is None:
            raise error
        return replace(self, schema=replace(self.schema, classes=classes))


def _check_ranks(group: str | None, outputs: Outputs) -> None:
    if group is not None and outputs.problem_type != "regression":
        raise InputError(f"--group {group}", found="a model of labels", expected="one that gives a score")


def open_set(
    name: str,
    columns: Columns | None = None,
    *,
    label_names: Mapping[str, str] | None = None,
    dialect: Dialect | None = None,
    prefer_parse: bool = False,
    problem_type: ProblemType = "single_label_classification",
    shuffle_premises: bool = False,
) -> LabelledSet:
    """The file at that path, or the data set of that name, which is fetched if needed.

    columns, label_names (text of a label cell -> label): from the user; they override those of the catalogue.
    dialect: of a file; sets of the catalogue are read as their format says. prefer_parse, problem_type: see `PairFile`.
    Raises as `fetch.resolve` and `PairFile` do, and InputError for label names that contradict the file's own.
    """
    entry = catalog.lookup_unless_path(name)
    schema = entry.schema if entry is not None else DataSetSchema()
    path = resolve_data(name)
    given = columns or Columns()  # by the user
    wanted = Columns(
        given.premise or schema.columns.premise,
        given.hypothesis or schema.columns.hypothesis,
        given.label or schema.columns.label,
    )
    kind = ShuffledPremises if shuffle_premises else PairFile
    if entry is not None:
        dialect = usual(str(path))
    shown = shown_name(name)
    options: dict[str, Any] = {"prefer_parse": prefer_parse, "problem_type": problem_type, "shown": shown}
    file = kind(path, columns=wanted, dialect=dialect, **options)
    names = by_class({**schema.label_names, **(label_names or {})}, file.class_names, file.name)
    return LabelledSet(shown or name, file, replace(schema, label_names=names), name)


def expanded(names: Sequence[str]) -> list[str]:
    """`names` without duplicates, the name of a suite replaced by its sets. An existing path is not a suite."""
    suites = [(name,) if existing_path(name) is not None else catalog.SUITES.get(name, (name,)) for name in names]
    return list(dict.fromkeys(one for suite in suites for one in suite))


def open_all(names: Sequence[str], open_one: Callable[[str], LabelledSet]) -> tuple[list[LabelledSet], dict[str, str]]:
    """Open the sets of `names`. Returns them, and for each set that could not be fetched: name -> reason.

    Raises as `open_set` does for all other errors, and if `names` has only one name; RunError if none could be fetched.
    """
    if len(names) == 1:
        return [open_one(names[0])], {}
    sets, skipped = [], {}
    for name in names:
        try:
            sets.append(open_one(name))
        except NotFetchedError as error:
            skipped[name] = error.reason
    if not sets:
        raise RunError(
            "none of the data sets could be fetched: "
            + "; ".join(f"{name}: {reason}" for name, reason in skipped.items()),
            do="fetch one on a machine with a network, into a BERTNLI_CACHE that this machine can read",
        )
    return sets, skipped
