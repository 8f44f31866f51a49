"""Zero-shot classification (Yin et al. 2019): texts and candidate labels, by a model of entailment.

Each candidate label makes a hypothesis, such as "This example is sports.", and its pair with the text is scored. The
numbers are those of transformers' zero-shot-classification pipeline:

* one label is true: the softmax over the labels' logits of entailment
* several may be true, or there is one candidate: for each label the softmax over entailment and contradiction

A text that is too long is cut, a hypothesis never. The logits are divided by the temperature first, as always; the
pipeline has none.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.encodings import read_text
from bertnli.common.errors import InputError, first_line
from bertnli.common.printable import shortened
from bertnli.data.columns import finder, listed
from bertnli.data.outputs import Outputs
from bertnli.data.records import is_text, json_type
from bertnli.evaluation.activations import activate
from bertnli_export.expansion import Expanded, Expansion, Texts
from bertnli_export.score_columns import Extra, ScoreColumns
from bertnli_export.scorer import Prediction, Score, Scores, check_twos, score_of

if TYPE_CHECKING:
    from bertnli.data.pairs import PairFile
    from bertnli.data.tokenizer import PairTokenizer
    from bertnli_export.scoring_setup import ScoringSetup

TEMPLATE = "This example is {}."
_OPTION = "--candidate-labels"
_SEPARATORS = ("|", ";", ",")
_LABELS = 8  # of a row with labels of its own, as a guess of how many there are


@dataclass(frozen=True)
class ZeroShot(Expansion):
    """labels: the candidates of every row. Without them, `column` names the column that has each row's own: a list, or
    text with |, ; or a comma between the labels. template: with {} in place of the label. multi_label: several labels
    may be true. source: what the user called the labels, for messages.

    Raises InputError for labels that are empty or doubled, and for a template without exactly one {}.
    """

    labels: tuple[str, ...] | None = None
    column: str | None = None
    template: str = TEMPLATE
    multi_label: bool = False
    source: str = ""

    reads_texts = True

    def __post_init__(self) -> None:
        whole = is_text(self.template) and "\0" not in self.template
        if not whole or self.template.count("{}") != 1 or set(self.template.replace("{}", "")) & set("{}"):
            expected = "a text with {} in place of the label"
            raise InputError("--hypothesis-template", found=repr(self.template), expected=expected)
        if (self.labels is None) == (self.column is None) or isinstance(self.labels, str):
            raise InputError(_OPTION, found=repr(self.labels), expected="a list of labels, or a column of labels")
        if self.labels is not None and (fault := _fault(self.labels)):
            raise InputError(f"{_OPTION} {self.source}".strip(), found=fault, do="fix the labels")

    @classmethod
    def read(cls, given: str, template: str = TEMPLATE, multi_label: bool = False) -> ZeroShot:
        """The value of the option: a file with a label in each line, labels with commas between them, or a column. The
        labels of a file, and those given, may also be a JSON list.

        Raises InputError for a file that cannot be read, and for what is no such list of labels.
        """
        labels: Sequence[Any] | None = None
        if _is_file(given):
            labels = _labels_in_file(given)
        elif given.lstrip().startswith("[") or "," in given:
            try:
                labels = _given_labels(given)
            except ValueError as error:
                do = "write a JSON list, or a file with a label in each line"
                raise InputError(f"{_OPTION} {shortened(given, 40)}: {first_line(error)}", do=do) from None
        own: dict[str, Any] = {"column": given} if labels is None else {"labels": tuple(labels)}
        return cls(**own, template=template, multi_label=multi_label, source=given)

    def for_file(self, file: PairFile) -> ZeroShot:
        column = finder(file.fields)(self.source or self.column or "")
        if self.labels is None and column == file.columns.premise:
            found = f"the column of the texts in {file.name}"
            raise InputError(f"{_OPTION} {self.column}", found=found, expected="another column, with the labels")
        if self.labels is not None:
            if column is not None:
                raise InputError(
                    f"{_OPTION} {self.source}",
                    found=f"labels, and a column of this name in {file.name}",
                    do="write a file as ./NAME, or name the column otherwise",
                )
            return self
        if column is None:
            first = "the first object of " if file.format == "jsonl" else ""
            do = 'of one label make a JSON list: ["sport"]'
            raise InputError(
                f"{_OPTION} {self.column}",
                found=f"no such file, and no such column in {first}{file.name}, which has {listed(file.fields)}",
                expected="a file with a label in each line, labels with commas between them, or a column",
                do=do + ("; if later objects have the column, give it to the first one too" if first else ""),
            )
        return replace(self, column=column)

    @property
    def options(self) -> dict[str, Any]:
        labels = {"column": self.column} if self.labels is None else list(self.labels)
        return {
            "candidate labels": labels,
            "hypothesis template": self.template,
            "multi-label": self.multi_label,
        }

    @property
    def notes(self) -> list[str]:
        if not self.source:
            return []
        if self.labels is None:
            return [f"note: the candidate labels of a row are in column {self.column!r}"]
        number = "1 candidate label" if len(self.labels) == 1 else f"{len(self.labels)} candidate labels"
        return [f"note: {number}: {listed(self.labels, 5)}"]

    def rows_in_chunk(self, pairs: int) -> int:
        return max(1, pairs // (len(self.labels) if self.labels is not None else _LABELS))

    def check(self, outputs: Outputs, tokenizer: PairTokenizer) -> None:
        entailment_and_contradiction(outputs)
        if tokenizer.settings.hypothesis_only:
            raise InputError(_OPTION, found="a model that does not read the premise, which is the text")

    def columns(self, outputs: Outputs, prefix: str) -> ScoreColumns:
        ends = f"{prefix}truncated", f"{prefix}error"
        score = prefix + "score"
        if self.labels is not None:
            return ScoreColumns(prefix + "label", (score, *(f"{prefix}p_{label}" for label in self.labels)), *ends)
        extras = Extra(prefix + "labels", "texts"), Extra(prefix + "scores", "numbers")
        return ScoreColumns(prefix + "label", (score,), *ends, extras=extras)

    def expand(self, tokenizer: PairTokenizer, texts: Texts) -> Expanded:
        refused: dict[int, str] = {}
        labels: list[Sequence[str]] = [self.labels or ()] * len(texts.premises)
        if self.labels is None:
            for row, cell in enumerate(texts.cells or ()):
                try:
                    labels[row] = _labels_of(cell)
                except ValueError as error:
                    labels[row], refused[row] = (), str(error)
        counts = np.array([len(some) for some in labels], np.int64)
        premises = [text for text, some in zip(texts.premises, labels, strict=True) for _ in some]
        hypotheses = [self.template.replace("{}", label) for label in chain.from_iterable(labels)]
        encoded = tokenizer.encode(premises, hypotheses, truncation="only_first")
        row_of = np.repeat(np.arange(len(labels)), counts)
        for pair in encoded.unfit.tolist():
            reason = f"the hypothesis {hypotheses[pair]!r} alone fills the {tokenizer.max_length} tokens of a pair"
            refused.setdefault(int(row_of[pair]), reason)
        truncated = np.zeros(len(labels), bool)
        truncated[row_of[encoded.truncated]] = True
        return Expanded(encoded, counts, truncated, refused, labels)

    def reduce(self, expanded: Expanded, logits: NDArray[np.float32], setup: ScoringSetup) -> Scores:
        entailment, contradiction = entailment_and_contradiction(setup.bundle.outputs)
        exact = logits.astype(np.float64)
        width = 1 if self.labels is None else 1 + len(self.labels)
        values = np.full((len(expanded.counts), width), np.nan)
        predictions: list[Prediction] = [None] * len(values)
        extras: list[tuple[Any, ...]] = [()] * len(values)
        ends = np.cumsum(expanded.counts)
        for row, (labels, end) in enumerate(zip(expanded.details, ends.tolist(), strict=True)):
            pairs = slice(end - len(labels), end)
            if row in expanded.refused or not np.isfinite(exact[pairs]).all():
                continue
            alone = self.multi_label or len(labels) == 1
            margins = exact[pairs, entailment] - (exact[pairs, contradiction] if alone else 0.0)
            scores = activate(margins[None], "sigmoid" if alone else "softmax", setup.temperature)[0]
            order = np.argsort(-margins, kind="stable").tolist()  # of the margins: rounding changes no label
            predictions[row] = labels[order[0]]
            if self.labels is not None:
                values[row] = [scores[order[0]], *scores]
            else:
                values[row] = scores[order[0]]
                extras[row] = ([labels[at] for at in order], scores[order].tolist())
        return Scores(predictions, values, expanded.truncated, expanded.refused, extras if self.labels is None else ())

    def texts_of(self, items: Sequence[Any]) -> Texts:
        """Texts, or without `labels` pairs of a text and its list of labels."""
        if self.labels is not None:
            return Texts(list(items), list(items), None)
        check_twos(items, "a text to classify", "a text and its candidate labels")
        texts = [text for text, _ in items]
        return Texts(texts, texts, [list(one) if isinstance(one, tuple) else one for _, one in items])

    def score_of(self, outputs: Outputs, item: Any, scores: Scores, row: int) -> Score:
        if self.labels is not None:
            names, values = list(self.labels), scores.values[row, 1:].tolist()
        else:
            names, values = scores.extras[row]
        return score_of(names, scores.predictions[row], values, bool(scores.truncated[row]))


def entailment_and_contradiction(outputs: Outputs) -> tuple[int, int]:
    """The indices of these two labels, by their names; of two labels the other one is the contradiction.

    Raises InputError for a model that does not have them.
    """
    found = [[i for i, name in enumerate(outputs.names) if name.casefold().startswith(s)] for s in ("entail", "contra")]
    entailment, contradiction = found
    if len(outputs.names) == 2 and len(entailment) == 1:
        contradiction = [1 - entailment[0]]
    if outputs.problem_type == "single_label_classification" and len(entailment) == len(contradiction) == 1:
        return entailment[0], contradiction[0]
    raise InputError(
        f"{_OPTION}: the model",
        found=f"one with {outputs.problem_type}, {', '.join(outputs.names)}",
        expected="one with the labels entailment and contradiction, or entailment and another one",
        do="export it with their names: --labels; or choose a model of natural language inference",
    )


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a list of labels may be too long for a name
        return False


def _labels_in_file(name: str) -> Sequence[Any]:
    """A label in each line; or a JSON list, as which a name in .json is read."""
    try:
        text = read_text(name)
        if name.lower().endswith(".json") or text.lstrip().startswith("["):
            try:
                return _json_list(text)
            except ValueError:
                if name.lower().endswith(".json"):
                    raise ValueError("no JSON list") from None
    except (OSError, ValueError) as error:
        do = f"write the file {name} again, as UTF-8 text with a label in each line"
        raise InputError(f"{_OPTION} {name}: cannot be read ({first_line(error)})", do=do) from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if "\t" in line.strip():
            expected = "a label in each line, and nothing else"
            raise InputError(f"{_OPTION} {name}: line {number}", found="a tab", expected=expected)
    return [line.strip() for line in (lines[:-1] if not lines[-1] else lines)]


def _given_labels(given: str) -> list[Any]:
    """Labels with commas between them, or a JSON list. Raises ValueError that says what is wrong."""
    if given.strip().startswith("[") and given.strip().endswith("]"):
        return _json_list(given)
    if "\n" in given or "\r" in given:
        raise ValueError("there is a line end in it")
    try:
        return [part.strip() for part in next(csv.reader([given], skipinitialspace=True, strict=True))]
    except csv.Error as error:
        raise ValueError(f"its quotes do not enclose labels ({error})") from None


def _json_list(text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ValueError("the candidate labels begin with [ and are no JSON list")
    return found


def _labels_of(cell: Any) -> list[str]:
    """The candidate labels in a cell. Raises ValueError that says what is wrong with it."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        cell = _json_list(cell)
    if isinstance(cell, str):
        used = [one for one in _SEPARATORS if one in cell]
        if len(used) > 1:
            raise ValueError(f"the candidate labels have both {used[0]} and {used[1]} between them; write a JSON list")
        cell = [part.strip() for part in (cell.split(used[0]) if used else [cell])]
    if not isinstance(cell, list):
        raise ValueError("no candidate labels" if cell is None else f"the candidate labels are {json_type(cell)}")
    if fault := _fault(cell):
        raise ValueError(f"candidate labels: {fault}")
    return [label.strip() for label in cell]


def _fault(labels: Sequence[Any]) -> str:
    """What is wrong with candidate labels; empty if nothing is."""
    if not labels:
        return "none"
    for number, label in enumerate(labels, 1):
        if not is_text(label) or "\0" in label:
            return f"a label that is not text: {label!r}"[:80]
        if not label.strip():
            return f"an empty label, number {number}"
    [(most, times)] = Counter(label.strip() for label in labels).most_common(1)
    return f"{most!r} {times} times" if times > 1 else ""
