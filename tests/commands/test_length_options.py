"""--max-length and --truncation of eval and export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertnli.commands import model_argument
from bertnli.commands.eval import evaluation
from bertnli.commands.model_argument import ModelOptions
from bertnli.common.errors import InputError
from tests.support import tiny


def test_they_come_before_the_models_own(tmp_path: Path) -> None:
    folder = str(tiny.hf_folder(tmp_path / "model"))
    tokenizer = model_argument.load(folder, ModelOptions(max_length=16, truncation="only_second")).tokenizer
    assert (tokenizer.max_length, tokenizer.settings.truncation) == (16, "only_second")
    with pytest.raises(InputError, match="max_length; found 1000; expected 64 or less, what the model's positions"):
        model_argument.load(folder, ModelOptions(max_length=1000))
    with pytest.raises(InputError, match="truncation; found 'first'; expected longest_first or"):
        model_argument.load(folder, ModelOptions(truncation="first"))


@pytest.mark.parametrize(("option", "given"), [("max_length", 16), ("truncation", "d2l")])
def test_a_bundles_are_fixed(option: str, given: int | str) -> None:
    flag = f"--{option.replace('_', '-')}"
    with pytest.raises(InputError, match=f"{flag}; found .*, a bundle; omit it, or export the model again with {flag}"):
        model_argument.predictor(str(tiny.bundle()), ModelOptions(**{option: given}), "cpu")


def test_eval_says_how_many_pairs_were_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"premise": "a man is eating " * 9, "hypothesis": "a man", "label": "neutral"}] * 3
    rows += [{"premise": "a man", "hypothesis": "a dog", "label": "neutral"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ModelOptions(max_length=16, truncation="only_first")
    model = model_argument.predictor(str(tiny.hf_folder(tmp_path / "model")), options, "cpu")
    found = evaluation("model", model, [str(path)])
    assert (found["truncated"], found["max_length"], found["rows"]) == (3, 16, 4)
    assert "3 pairs are longer than 16 tokens, and were cut" in capsys.readouterr().out
