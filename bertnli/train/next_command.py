"""The command that a finished run names: one that works for the run's own labels."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from bertnli.data.labels import SNLI_ORDER, LabelTable, format_label_names
from bertnli.fetch.catalog import CATALOG
from bertnli.run.config import RunConfig


def next_command(model: str, labels: Sequence[str], config: RunConfig) -> str:
    """For the model folder `model` with these `labels`: its evaluation on rows that have such labels, or its export."""
    if all(LabelTable(labels).index(label) >= 0 for label in SNLI_ORDER):
        return shlex.join(["bertnli", "eval", model, "snli-test"])
    if sources := config.data.sources("eval"):
        first = sources[0]
        dialect, columns, names = first.dialect, first.columns, first.label_names
        given = {
            "--premise": columns.premise,
            "--hypothesis": columns.hypothesis,
            "--label": columns.label,
            "--label-names": format_label_names(names) if names else None,
            "--format": dialect.format,
            "--delimiter": "tab" if dialect.delimiter == "\t" else dialect.delimiter,
            "--quoting": dialect.quoting,
        }
        options = [part for option, value in given.items() if value for part in (option, value)]
        more = ["--no-header"] * (not dialect.header) + ["--skip-bad-rows"] * config.data.skip_bad_rows
        return shlex.join(["bertnli", "eval", model, first.name, *options, *more])
    classes = CATALOG["hans"].schema.classes
    table = LabelTable(tuple(dict.fromkeys(classes.values())), classes)
    if {table.index(label) for label in labels} == {0, 1}:
        return shlex.join(["bertnli", "eval", model, "hans"])
    return shlex.join(["bertnli", "export", model, f"{model}-bundle"])
