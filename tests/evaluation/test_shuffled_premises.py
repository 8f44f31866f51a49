"""The premise-shuffled check: a permutation, the same every time, of the premises and of nothing else."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from bertnli.data.pairs import PairFile
from bertnli.evaluation import shuffled_premises
from bertnli.evaluation.data_sets import open_set
from bertnli.evaluation.shuffled_premises import ShuffledPremises
from bertnli.report.summary import notes
from tests.evaluation.test_data_sets import LABELS, Told


def write(path: Path, rows: int, bad: int | None = None) -> Path:
    lines = [f"premise {i}\thypothesis {i}\t{LABELS[i % 3]}" for i in range(rows)]
    if bad is not None:
        lines[bad] = f"\thypothesis {bad}\tneutral"
    path.write_text("\n".join(["premise\thypothesis\tlabel", *lines]) + "\n")
    return path


@pytest.mark.parametrize("rows", [1, 2, 99, 100, 101, 199, 200, 201, 399, 1000])
def test_it_is_a_permutation_of_the_premises_within_a_bounded_window(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffled_premises, "WINDOW", 100)
    file = ShuffledPremises(write(tmp_path / "a.tsv", rows))
    found, plain = list(file.rows()), list(PairFile(file.path).rows())
    assert found == list(file.rows())
    assert Counter(row.premise for row in found) == Counter(row.premise for row in plain)
    assert [row._replace(premise="") for row in found] == [row._replace(premise="") for row in plain]
    came_from = [int(str(row.premise).split()[1]) for row in found]
    assert max(abs(here - there) for here, there in enumerate(came_from)) < 200
    if rows >= 99:
        assert sum(here == there for here, there in enumerate(came_from)) < 0.1 * rows
        assert sum(here != there for here, there in enumerate(came_from[-50:], rows - 50)) > 40  # to the very end
    if rows > 100 and (rest := rows % 100):  # what is left over is not shuffled by itself
        assert any(there < rows - rest for there in came_from[-rest:])


def test_windows_are_not_shuffled_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffled_premises, "WINDOW", 50)
    rows = ShuffledPremises(write(tmp_path / "a.tsv", 150)).rows()
    first, second = ([int(str(row.premise).split()[1]) for row in islice(rows, 50)] for _ in range(2))
    assert [number - 50 for number in second] != first


def test_bad_rows_keep_their_place_and_lend_no_premise(tmp_path: Path) -> None:
    rows = list(ShuffledPremises(write(tmp_path / "a.tsv", 60, bad=7)).rows())
    assert rows[7].error == "empty premise" and rows[7].number == 8
    assert all(row.premise for row in rows if row.error is None)


def test_a_model_that_needs_the_premise_falls_and_one_that_does_not_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 300)
    by_premise = {f"premise {i}": [5.0 * (i % 3 == one) for one in range(3)] for i in range(300)}
    assert open_set(str(path)).measure(Told(by_premise))["accuracy"] == 1.0
    found = open_set(str(path), shuffle_premises=True).measure(Told(by_premise))
    assert found["premises"] == "shuffled" and found["seed"] == 0 and found["rows"] == 300
    assert 0.25 < found["accuracy"] < 0.42  # chance
    assert any("premises were shuffled" in line and "0.3333" in line for line in notes(found))

    class ByHypothesis(Told):
        def logits(self, premises, hypotheses):
            return super().logits([one.replace("hypothesis", "premise") for one in hypotheses], hypotheses)

    for shuffle in (False, True):
        assert open_set(str(path), shuffle_premises=shuffle).measure(ByHypothesis(by_premise))["accuracy"] == 1.0


def test_the_command_says_so(tmp_path, command):
    from tests.support import tiny

    tiny.hf_folder(tmp_path / "model")
    rows = "".join(json.dumps(row) + "\n" for row in tiny.snli_rows(200))
    (tmp_path / "pairs.jsonl").write_text(rows)
    said = [command("eval", "model", "pairs.jsonl", *more, "--json").stdout for more in ([], ["--shuffle-premises"])]
    plain, mixed = (json.loads(text.splitlines()[-1]) for text in said)
    assert "premises" not in plain and (mixed["premises"], mixed["seed"]) == ("shuffled", 0)
    assert mixed["rows"] == plain["rows"] and mixed["loss"] != plain["loss"]
    assert "premises were shuffled" in said[1]
