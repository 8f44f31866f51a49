"""The hypothesis-only baseline: from the run file to the model folder, and nowhere a premise."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from bertnli_export.build import export_bundle

from bertnli.common.errors import InputError
from bertnli.common.files import cache_dir
from bertnli.data.tokenizer import PairTokenizer
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from bertnli.run.run_file import load_run
from bertnli.train import inputs
from tests.support import tiny
from tests.support.runs import train

PREMISES = ["A man eats ice cream on a beach.", "Two dogs run.", ""]
HYPOTHESES = ["A man eats.", "Some tourists sing loudly in the street.", "x " * 200]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.hf_folder(tmp_path / "model")


def ids(tokenizer: PairTokenizer, premises: list[str], pair: int) -> list[int]:
    encoded = tokenizer.encode(premises, HYPOTHESES)
    return encoded.ids[encoded.offsets[pair] : encoded.offsets[pair + 1]].tolist()


def test_a_premise_leaves_nothing_behind(folder: Path) -> None:
    usual = PairTokenizer.from_folder(folder)
    baseline = PairTokenizer.from_folder(folder, hypothesis_only=True)
    encoded = baseline.encode(PREMISES, HYPOTHESES)
    for pair in range(3):
        tokens = ids(baseline, PREMISES, pair)
        assert tokens == ids(usual, [""] * 3, pair) == ids(baseline, PREMISES[::-1], pair)
        assert tokens[:2] == [baseline.cls_id, baseline.sep_id] and tokens.count(baseline.sep_id) == 2
    assert encoded.first_segment.tolist() == [2, 2, 2]
    assert encoded.truncated.tolist() == [False, False, True] and encoded.lengths[2] == 48
    assert ids(usual, PREMISES, 0) != ids(baseline, PREMISES, 0)


def test_a_premise_still_has_to_be_text(folder: Path) -> None:
    baseline = PairTokenizer.from_folder(folder, hypothesis_only=True)
    with pytest.raises(InputError, match="premise of pair 0"):
        baseline.encode([None], ["a"])  # type: ignore[list-item]


def test_its_fingerprint_is_its_own_and_others_keep_theirs(folder: Path) -> None:
    usual = PairTokenizer.from_folder(folder)
    assert usual.fingerprint == hashlib.sha256(f"{usual.to_json()}\0longest_first\x0048".encode()).hexdigest()
    assert PairTokenizer.from_folder(folder, hypothesis_only=True).fingerprint != usual.fingerprint


def test_the_book_has_one_too(tmp_path: Path) -> None:
    book = tiny.d2l_folder(tmp_path / "book")
    source = pretrained.load(book, arch="bert.small", hypothesis_only=True)
    encoded = source.tokenizer.encode(["a man"], ["a man sings"])
    assert source.tokenizer.tokens(encoded.ids.tolist())[:2] == ["<cls>", "<sep>"]
    assert not pretrained.load(book, arch="bert.small").tokenizer.settings.hypothesis_only


def test_the_setting_is_true_or_false(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["bertnli"]["hypothesis_only"] = "yes"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"key bertnli: hypothesis_only; found 'yes'; expected true or false"):
        PairTokenizer.from_folder(folder)


def test_the_whole_way(tmp_path, run, ranks, command):
    """Trained from the same run file, its folder says so, is evaluated without premises, and is not exported."""
    train(run("usual", max_steps=2), ranks)
    train(run("baseline", max_steps=2), ranks, **{"data.hypothesis_only": "true"})
    assert len([path for path in (cache_dir() / "corpora").iterdir() if path.is_dir()]) == 2
    model = tmp_path / "baseline" / "model"
    assert json.loads((model / "config.json").read_text())["bertnli"]["hypothesis_only"] is True
    assert "hypothesis_only: true" in (tmp_path / "baseline" / "run.yaml").read_text()
    card = (model / "README.md").read_text()
    assert "a hypothesis-only baseline" in card and "bertnli eval" in card and "bertnli export" not in card
    usual_card = (tmp_path / "usual" / "model" / "README.md").read_text()
    assert "hypothesis-only" not in usual_card and "bertnli export" in usual_card

    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    same_premise = [{**row, "sentence1": "A man sings."} for row in rows]
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in same_premise))

    def evaluated(name: str, data: str) -> dict[str, object]:
        done = command("eval", f"{name}/model", data, "--json")
        assert done.returncode == 0, done.stderr
        assert ("are not read by this model" in done.stdout) == (name == "baseline")
        return json.loads(done.stdout.splitlines()[-1])

    found = evaluated("baseline", "train.jsonl")
    assert found["premises"] == "not read"
    assert found["loss"] == pytest.approx(evaluated("baseline", "same.jsonl")["loss"], abs=1e-6)
    usual = evaluated("usual", "train.jsonl")
    assert "premises" not in usual
    assert usual["loss"] != pytest.approx(evaluated("usual", "same.jsonl")["loss"], abs=1e-4)

    shuffled = command("eval", "baseline/model", "train.jsonl", "--shuffle-premises")
    assert shuffled.returncode == 2 and "reads no premises" in shuffled.stderr
    with pytest.raises(InputError, match=r"hypothesis-only baseline.*bertnli eval"):
        export_bundle(pretrained.load(model), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_training_on_from_one_stays_one_unless_told(tmp_path, run):
    baseline = pretrained.load(tmp_path / "start", hypothesis_only=True)
    pretrained.save(baseline.build(), baseline.tokenizer, tmp_path / "baseline")
    path = run(model=str(tmp_path / "baseline"))
    for sets, expected in (([], True), (["data.hypothesis_only=false"], False)):
        source = inputs.load_starting_model(load_run(path, sets))
        assert source.tokenizer.settings.hypothesis_only is expected


def test_its_scores_are_those_of_an_empty_premise(folder: Path) -> None:
    usual = TorchPredictor(pretrained.load(folder).build(), PairTokenizer.from_folder(folder), "cpu")
    source = pretrained.load(folder, hypothesis_only=True)
    baseline = TorchPredictor(source.build(), source.tokenizer, "cpu")
    expected = usual.logits([""] * 3, HYPOTHESES)
    np.testing.assert_allclose(baseline.logits(PREMISES, HYPOTHESES), expected, atol=1e-5)
    assert np.abs(usual.logits(PREMISES, HYPOTHESES) - expected)[:2].max() > 1e-2
