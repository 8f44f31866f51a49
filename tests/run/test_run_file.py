"""Run files written in many ways: every value is taken as it is meant, or every mistake is reported, in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from bertnli.run.run_file import load_run


class Forms(NamedTuple):
    """right: YAML texts and what they mean. wrong: YAML texts that mean no value of this kind."""

    right: dict[str, Any]
    wrong: list[str]


_NO_NUMBER = ["yes", "off", "true", "[3]", "{a: 3}", "three", "''", "-3", ".nan", "0x", "010", "1:30"]
COUNT = Forms({"3": 3, "3.0": 3, "'3'": 3, "3e1": 30, "0x10": 16, "1_000": 1000, "+3": 3}, [*_NO_NUMBER, "2.5", "0"])
RATE = Forms({"1": 1.0, "1e-4": 1e-4, "1.0e-4": 1e-4, "'1e-4'": 1e-4, ".5": 0.5}, [*_NO_NUMBER, ".inf"])
SWITCH = Forms(
    {"yes": True, "off": False, "true": True, "1": True, "'no'": False}, ["2", "perhaps", "[yes]", "''", "~"]
)
TEXT = Forms(
    {"a": "a", "'12'": "12", "2024-01-01": "2024-01-01", "1e3": "1e3", "'yes'": "yes", "a b": "a b", '"\\xe9"': "é"},
    ["12", "1.5", "yes", "~", "[a]", "{a: b}", "''", '"\\0"'],
)
LABELS = Forms({"[a, b]": ("a", "b"), "a, b": ("a", "b"), "'a,b'": ("a", "b")}, ["a", "12", "{a: b}", "''", "off"])

REPORTERS = Forms(
    {"none": (), "wandb": ("wandb",), "[mlflow, wandb]": ("mlflow", "wandb")}, ["12", "true", "{a: b}", "''", "~"]
)
# The training data may be a list, and a map has keys of its own.
DATA = Forms(
    TEXT.right | {"[a]": ("a",), "[a, '2']": ("a", "2")}, [one for one in TEXT.wrong if one not in ("[a]", "{a: b}")]
)

# data.train, model and output are in every file.
ALWAYS = {"model": TEXT, "output": TEXT, "data.train": DATA, "epochs": COUNT}
OTHERS = {
    "global_batch_size": COUNT,
    "learning_rate": RATE,
    "weight_decay": RATE,
    "deterministic": SWITCH,
    "report_to": REPORTERS,
    "stall_timeout": RATE,
    "labels": LABELS,
    "data.skip_bad_rows": SWITCH,
    "data.max_train_pairs": COUNT,
    "checkpoint.keep": COUNT,
    "checkpoint.every_steps": COUNT,
}


@st.composite
def run_files(draw: st.DrawFn) -> tuple[str, dict[str, Any], dict[str, str]]:
    """A run file's text, the values that it means by dotted key, and the keys with a mistake and their texts.

    Any part of a map may come from a merge instead, with or without an anchor above.
    """
    forms = ALWAYS | {key: OTHERS[key] for key in draw(st.sets(st.sampled_from(sorted(OTHERS))))}
    texts: dict[str, dict[str, str]] = {}
    meant, mistaken = {}, {}
    for key in draw(st.permutations(sorted(forms))):
        right = draw(st.integers(0, 3)) > 0
        text = draw(st.sampled_from(list(forms[key].right) if right else forms[key].wrong))
        if right:
            meant[key] = forms[key].right[text]
        else:
            mistaken[key] = text
        section, _, name = key.rpartition(".")
        texts.setdefault(section, {})[name] = text
    anchors, lines = [], []
    for section, values in texts.items():
        merged = {name for name in values if draw(st.booleans())} if draw(st.booleans()) else set()
        anchored = draw(st.booleans())
        here = [f"{name}: {text}" for name, text in values.items() if name not in merged]
        if merged:
            inner = "".join(f"\n    {name}: {values[name]}" for name in values if name in merged)
            if anchored:
                anchors.append(f"x-{section}: &{section or 'top'}{inner}")
            here.insert(draw(st.integers(0, len(here))), f"<<: *{section or 'top'}" if anchored else f"<<:{inner}")
        lines += [f"{section}:", *("  " + line.replace("\n", "\n  ") for line in here)] if section else here
    return "\n".join([*anchors, *lines]) + "\n", meant, mistaken


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


@given(written=run_files())
def test_every_value_is_meant_or_every_mistake_is_named(file, written):
    text, meant, mistaken = written
    file.write_text(text, encoding="utf-8")
    if mistaken:
        with pytest.raises(InputError) as raised:
            load_run(file)
        said = str(raised.value)
        assert len(said.splitlines()) == (1 if len(mistaken) == 1 else 1 + len(mistaken)), said
        for key, wrong in mistaken.items():
            assert f"key {key}: found" in said or f"YAML reads {wrong} as" in said, said
        return
    loaded = load_run(file).model_dump()
    for key, value in meant.items():
        section, _, name = key.rpartition(".")
        assert (loaded[section] if section else loaded)[name] == value
    file.write_text(load_run(file).to_yaml(), encoding="utf-8")
    assert load_run(file).model_dump() == loaded
