"""A labelled data set by its name or path: the file, and what the catalogue says about reading and judging it.

`open_set` finds it, `LabelledSet.measure` evaluates a model on it as the set asks: label names translated, classes
that the set does not tell apart taken together, the accuracy by the columns that it is meant to be looked at by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import existing_path
from bertnli.data.columns import Columns
from bertnli.data.labels import UNKNOWN, LabelTable
from bertnli.data.pairs import PairFile
from bertnli.evaluation.accuracy_by_column import AccuracyByColumn
from bertnli.evaluation.evaluate import ComparedModel, Predictor, check_labelled_rows, evaluate
from bertnli.evaluation.merged_classes import MergedClasses
from bertnli.evaluation.shuffled_premises import SEED, ShuffledPremises
from bertnli.fetch import catalog
from bertnli.fetch.entry import DataSetSchema
from bertnli.fetch.resolve import NotFetchedError, resolve_data


@dataclass(frozen=True)
class LabelledSet:
    name: str  # as a person gave it
    file: PairFile
    schema: DataSetSchema

    def measure(
        self,
        predictor: Predictor,
        *,
        reads_premises: bool = True,
        skip_bad_rows: bool = False,
        against: ComparedModel | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> dict[str, Any]:
        """What `Evaluation.to_json` gives, and where they apply: `classes`, the model's labels under each of the set's;
        `by_column` (see accuracy_by_column.py); `premises`, `shuffled` (with `seed`) or `not read`.

        reads_premises: False for a hypothesis-only model. Raises as `evaluate` does, and InputError if the set's
        classes are not those of the model.
        """
        found: dict[str, Any] = {}
        if not reads_premises:
            if isinstance(self.file, ShuffledPremises):
                raise InputError("--shuffle-premises", found="a model that reads no premises", do="leave it out")
            found["premises"] = "not read"
        if isinstance(self.file, ShuffledPremises):
            found |= {"premises": "shuffled", "seed": SEED}
        predictor = self._with_its_classes(predictor)
        if isinstance(predictor, MergedClasses):
            found["classes"] = predictor.members
        if against is not None:
            against = against._replace(predictor=self._with_its_classes(against.predictor))
        tables = [AccuracyByColumn(self.file, column, predictor.labels) for column in self.schema.slices]
        evaluation = evaluate(
            predictor,
            self.file,
            skip_bad_rows=skip_bad_rows,
            label_names=self.schema.label_names,
            against=against,
            also=[table.add for table in tables],
            progress=progress,
        )
        if tables:
            found["by_column"] = {table.column: table.to_json() for table in tables}
        return evaluation.to_json() | found

    def check(self, predictor: Predictor, skip_bad_rows: bool = False) -> None:
        """Raise what `measure` would raise for the set's rows, before a pair is scored."""
        labels = self._with_its_classes(predictor).labels
        check_labelled_rows(self.file, labels, skip_bad_rows, self.schema.label_names)

    def _with_its_classes(self, predictor: Predictor) -> Predictor:
        table = LabelTable(tuple(self.schema.classes.values()))
        if not self.schema.classes or all(table.index(label) != UNKNOWN for label in predictor.labels):
            return predictor
        return MergedClasses(predictor, self.schema.classes, self.name)


def open_set(
    name: str,
    columns: Columns | None = None,
    *,
    label_names: Mapping[str, str] | None = None,
    prefer_parse: bool = False,
    shuffle_premises: bool = False,
) -> LabelledSet:
    """The set of that name, fetched if need be, or the file at that path.

    `columns` and `label_names` (what a label cell says -> the label's name): a person's own go first.

    Raises as `fetch.resolve` and `PairFile` do.
    """
    entry = catalog.lookup_unless_path(name)
    schema = entry.schema if entry is not None else DataSetSchema()
    schema = replace(schema, label_names={**schema.label_names, **(label_names or {})})
    path = resolve_data(name)
    given = columns or Columns()
    wanted = Columns(
        given.premise or schema.columns.premise,
        given.hypothesis or schema.columns.hypothesis,
        given.label or schema.columns.label,
    )
    kind = ShuffledPremises if shuffle_premises else PairFile
    return LabelledSet(name, kind(path, columns=wanted, prefer_parse=prefer_parse), schema)


def expanded(names: Sequence[str]) -> list[str]:
    """`names`, each once, with a suite's sets in place of its name. A path of that name that exists is no suite."""
    suites = [(name,) if existing_path(name) is not None else catalog.SUITES.get(name, (name,)) for name in names]
    return list(dict.fromkeys(one for suite in suites for one in suite))


def open_all(names: Sequence[str], open_one: Callable[[str], LabelledSet]) -> tuple[list[LabelledSet], dict[str, str]]:
    """The sets of `names`, and why those that are not among them could not be fetched, by name.

    Raises as `open_set` does for anything else that is wrong, for a set that is asked for alone, and RunError if not
    one of several could be fetched.
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
            do="fetch one where there is a network, into a BERTNLI_CACHE that this machine sees as well",
        )
    return sets, skipped
