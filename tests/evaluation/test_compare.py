"""Two models on the same rows: every count by hand, the test against scipy's, labels matched by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from bertnli.commands.model_argument import ModelOptions, predictor, split_options
from bertnli.common.errors import InputError, RunError
from bertnli.data.pairs import PairFile
from bertnli.evaluation.compare import mcnemar
from bertnli.evaluation.evaluate import ComparedModel, evaluate
from bertnli.evaluation.example_predictions import EXAMPLES
from tests.conftest import Run
from tests.evaluation.test_evaluate import LABELS, Reader, random_rows, write
from tests.support import tiny


@pytest.mark.parametrize(
    ("first", "second"),
    [(0, 0), (0, 1), (1, 0), (3, 9), (9, 3), (50, 50), (51, 50), (400, 520), (0, 60), (200_000, 201_500), (10, 5000)],
)
def test_the_test_is_scipys(first: int, second: int) -> None:
    expected = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-6, abs=1e-300)


class Another(Reader):
    """Says something else of the rows `changes` names, by the premise's number: the label it then prefers."""

    def __init__(self, changes: dict[int, str], labels: tuple[str, ...] = LABELS, temperature: float = 1.0):
        super().__init__(labels, temperature)
        self.changes = changes

    def logits(self, premises, hypotheses):
        found = super().logits(premises, hypotheses)
        for place, premise in enumerate(premises):
            if change := self.changes.get(int(premise.split()[1])):
                found[place, self.labels.index(change)] = 50
        return found


SURE = {label: [4.0 * (label == one) for one in LABELS] for label in LABELS}
# gold, what this model says; then what the other says of the rows that it says something else of
ROWS = [("entailment", SURE["entailment"])] * 40 + [("neutral", SURE["contradiction"])] * 30
CHANGES = {1: "neutral", 2: "contradiction", 41: "neutral", 42: "neutral", 43: "neutral", 50: "entailment"}


@pytest.mark.parametrize("order", [LABELS, ("contradiction", "entailment", "neutral")])
def test_every_count_by_hand(tmp_path: Path, order: tuple[str, ...]) -> None:
    file = write(tmp_path / "a.tsv", ROWS)
    found = evaluate(Reader(), file, against=ComparedModel("b", Another(CHANGES, order), PairFile(file.path)), batch=16)
    assert found.against is not None
    said = found.to_json()["against"]
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert (said["model"], said["rows"], said["changed"]) == ("b", 70, 6)
    assert (said["only_this_right"], said["only_other_right"]) == (2, 3)
    assert said["p_value"] == pytest.approx(scipy.stats.binomtest(2, 5).pvalue)
    assert found.metrics.accuracy == 40 / 70 and said["accuracy"] == 41 / 70
    assert said["labels"] == list(LABELS) and said["confusion"] == [[38, 1, 1], [1, 3, 26], [0, 0, 0]]
    shown = [(one["row"], one["gold"], one["predicted"], one["other"]) for one in said["changed_examples"]]
    assert shown == [
        (1, "entailment", "entailment", "neutral"),
        (2, "entailment", "entailment", "contradiction"),
        (41, "neutral", "contradiction", "neutral"),
        (42, "neutral", "contradiction", "neutral"),
        (43, "neutral", "contradiction", "neutral"),
        (50, "neutral", "contradiction", "entailment"),
    ]


def test_each_model_has_its_own_temperature(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", random_rows(80))
    alone = evaluate(Reader(temperature=3.0), file)
    found = evaluate(Reader(), file, against=ComparedModel("b", Reader(temperature=3.0), PairFile(file.path)))
    assert found.against is not None
    assert found.against.changed == 0 and found.against.p_value == 1
    np.testing.assert_array_equal(found.against.metrics.as_vector(), alone.metrics.as_vector())
    assert found.metrics.loss == evaluate(Reader(), file).metrics.loss


def test_there_are_a_few_examples_of_every_kind(tmp_path: Path) -> None:
    rows = [("entailment", SURE["entailment"])] * 100 + [("neutral", SURE["contradiction"])] * 2
    changes = dict.fromkeys(range(1, 101), "neutral") | {101: "neutral", 102: "entailment"}
    file = write(tmp_path / "a.tsv", rows)
    found = evaluate(Reader(), file, against=ComparedModel("b", Another(changes), PairFile(file.path)), batch=8).against
    assert found is not None and found.changed == 102
    assert [one.this.row for one in found.examples] == [*range(1, EXAMPLES - 1), 101, 102]


def test_the_labels_must_be_the_same_whatever_their_case(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", random_rows(10))
    shouting = Reader()
    shouting.labels = tuple(label.upper() for label in LABELS)
    found = evaluate(Reader(), file, against=ComparedModel("b", shouting, PairFile(file.path))).against
    assert found is not None and found.changed == 0
    other = ComparedModel("b", Reader(("contradiction", "entailment")), PairFile(file.path))
    with pytest.raises(InputError, match="--against b: its labels are different; found contradiction, entailment"):
        evaluate(Reader(), file, against=other)


def test_rows_that_only_one_model_can_read_are_not_compared_with_others(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", random_rows(10))
    cut = tmp_path / "b.tsv"
    cut.write_text("".join(Path(file.path).read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match="their usable rows are not the same"):
        evaluate(Reader(), file, against=ComparedModel("b", Reader(), PairFile(cut)))


def test_the_command(command: Run, tmp_path: Path) -> None:
    """Against its own bundle nothing changes; a d2l model reads other columns, and has another order of labels."""
    tiny.hf_folder(tmp_path / "model")
    tiny.d2l_folder(tmp_path / "book", classifier=True)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(80)))
    shutil.copytree(tiny.bundle(), tmp_path / "bundle")  # of the same model

    def found(*arguments: object) -> tuple[dict, str]:
        done = command("eval", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stdout

    same, _ = found("model", "rows.jsonl", "--against", "bundle")
    assert same["against"]["changed"] == 0 and same["against"]["confusion"] == same["confusion"]
    book, _ = found("book", "rows.jsonl", "--arch", "bert.small")
    both, said = found("bundle", "rows.jsonl", "--against", "book", "--arch", "bert.small", "--report", "report")
    assert both["confusion"] == same["confusion"] and both["against"]["accuracy"] == book["accuracy"]
    back = [book["labels"].index(label) for label in both["labels"]]
    assert both["against"]["confusion"] == np.array(book["confusion"])[np.ix_(back, back)].tolist()
    counts = f"{both['against']['changed']} predictions differ"
    assert counts in said and "McNemar" in said and "against book: its accuracy" in said
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Against book" in page and counts in page and "The other</dt>" in page


def test_options_go_to_the_model_whose_files_do_not_say_it(tmp_path: Path) -> None:
    """--arch to d2l weights in the book's form, --labels to a folder of LABEL_0, …, on either side of --against."""
    model, book = str(tiny.hf_folder(tmp_path / "model")), str(tiny.d2l_folder(tmp_path / "book", classifier=True))
    unnamed = str(shutil.copytree(model, tmp_path / "unnamed"))
    config = json.loads((tmp_path / "unnamed" / "config.json").read_text())
    names = ",".join(config["id2label"][str(index)] for index in range(3))
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(3)}
    (tmp_path / "unnamed" / "config.json").write_text(json.dumps(config))

    given = ModelOptions("bert.small", names)
    arch, labels, neither = ModelOptions("bert.small"), ModelOptions(labels=names), ModelOptions()
    assert split_options(given, unnamed, book) == (labels, arch)
    assert split_options(given, book, unnamed) == (arch, labels)
    assert split_options(labels, model, unnamed) == (neither, labels)
    assert split_options(labels, unnamed, unnamed) == (labels, labels)
    assert split_options(arch, book, str(tiny.bundle())) == (arch, neither)
    assert predictor(unnamed, labels, "cpu").labels == predictor(model, neither, "cpu").labels
    ours, theirs = split_options(given, model, str(tiny.bundle()))  # nobody needs them
    assert (ours, theirs) == (given, neither)
    with pytest.raises(InputError, match=r"--arch bert\.small; found .*config\.json"):
        predictor(model, ours, "cpu")
    with pytest.raises(InputError, match=r"--labels; found .*, a bundle, whose manifest specifies it; omit --labels"):
        predictor(str(tiny.bundle()), labels, "cpu")
