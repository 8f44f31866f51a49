"""The recipes: each loads, uses names that can be fetched, has the settings it promises, and trains (a small model)."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bertnli.families import d2l
from bertnli.fetch import catalog
from bertnli.run.config import RunConfig
from bertnli.run.deepspeed_config import deepspeed_config
from bertnli.run.folder import read_metrics
from bertnli.run.run_file import load_run
from bertnli.train import loop as training
from bertnli.train import setup
from tests.conftest import ROOT
from tests.support import tiny

SNLI_PAIRS = 549_367  # labelled, in train
FILES = sorted((ROOT / "recipes").glob("*.yaml"))
PAGE = (ROOT / "recipes" / "README.md").read_text()

# What a recipe promises: steps on SNLI, pairs a step, learning rate and its schedule, dropout, truncation.
PROMISED = {
    "bert-small-d2l": (5_365, 512, 1e-4, "constant", 0.2, "d2l"),
    "bert-base-d2l": (5_365, 512, 1e-4, "constant", 0.1, "d2l"),
    "bert-base-uncased-snli": (51_504, 32, 2e-5, "linear", 0.1, "longest_first"),
    "minilm-snli": (34_336, 32, 5e-5, "linear", 0.1, "longest_first"),
}


def recipe(name: str, *sets: str) -> RunConfig:
    return load_run(ROOT / "recipes" / f"{name}.yaml", sets)


def test_every_recipe_is_promised_and_explained():
    assert {path.stem for path in FILES} == set(PROMISED)
    assert set(re.findall(r"^\| \[([\w-]+)\.yaml\]\(\1\.yaml\)", PAGE, re.MULTILINE)) == set(PROMISED)
    for name, (steps, pairs, *_) in PROMISED.items():
        assert re.search(rf"^\| \[{name}\.yaml\].*\| {steps:,} of {pairs} pairs \|", PAGE, re.MULTILINE), name
    for path in FILES:
        lines = path.read_text().splitlines()
        assert len(lines) <= 40 and lines[0].startswith("# ")


@pytest.mark.parametrize("name", PROMISED)
def test_settings(name):
    run = recipe(name)
    steps, pairs, rate, schedule, _, _ = PROMISED[name]
    assert (run.total_steps(SNLI_PAIRS), run.global_batch_size, run.schedule) == (steps, pairs, schedule)
    warmed_up = run.learning_rate_at(steps // 2, steps)
    assert warmed_up == pytest.approx(rate if schedule == "constant" else rate * 5 / 9, rel=1e-3)
    assert run.max_length == 128
    for entry, kind in ((run.model, "model"), (run.data.train, "dataset"), (run.data.eval, "dataset")):
        assert catalog.CATALOG[entry].kind == kind
    deepspeed_config(run, "fp32", 8)


def test_minilm_discloses_what_it_was_trained_on():
    assert "SNLI and MNLI" in catalog.CATALOG["minilm"].disclosure
    for text in (PAGE, (ROOT / "recipes" / "minilm-snli.yaml").read_text().replace("\n# ", " ")):
        assert "SNLI and MNLI" in text and "never saw them" in text


@pytest.mark.parametrize("name", PROMISED)
def test_trains(tmp_path, ranks, monkeypatch, name):
    """Two steps with a small model of the same kind."""
    _, _, rate, schedule, dropout, truncation = PROMISED[name]
    sets = []
    if name.endswith("-d2l"):
        arch = name.removesuffix("-d2l").replace("-", ".")
        small = replace(d2l.D2L_ARCHITECTURES[arch], hidden_size=32, intermediate_size=64, num_layers=1)
        monkeypatch.setitem(d2l.D2L_ARCHITECTURES, arch, replace(small, num_heads=4))
        tiny.d2l_folder(tmp_path / "start", arch=arch)
        sets = [f"arch={arch}"]
    else:
        tiny.hf_folder(tmp_path / "start", max_length=None, max_positions=128)
    for part, rows in (("train", 60), ("eval", 20)):
        lines = [json.dumps(row) + "\n" for row in tiny.snli_rows(rows)]
        (tmp_path / f"{part}.jsonl").write_text("".join(lines))
        sets.append(f"data.{part}={tmp_path / part}.jsonl")
    sets += [f"model={tmp_path / 'start'}", f"output={tmp_path / 'run'}", "epochs=null", "max_steps=2"]

    trained = []
    engine = training.Engine

    def watched(network, settings, config, *more, **options):
        trained.append((network.config.hidden_dropout, settings["gradient_clipping"], config.weight_decay))
        return engine(network, settings, config, *more, **options)

    monkeypatch.setattr(setup, "Engine", watched)
    summary = training.train(recipe(name, *sets), ranks, say=lambda line: None)
    assert summary["steps"] == 2 and summary["eval_rows"] > 0
    assert trained == [(dropout, *((0, 0) if schedule == "constant" else (1.0, 0.01)))]
    rates = [row["learning_rate"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "learning_rate" in row]
    assert rates == ([rate, rate] if schedule == "constant" else [0, rate])
    content = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert content["bertnli"]["truncation"] == truncation and content["bertnli"]["max_length"] == 128
    assert content["model_type"] == ("d2l-bert" if name.endswith("-d2l") else "bert")


def test_the_d2l_recipes_optimizer_is_the_books(ranks):
    """The same as torch.optim.Adam(lr=1e-4) on the sum of the batch's losses (d2l's train_batch_ch13)."""
    run = recipe("bert-small-d2l")
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.LayerNorm(32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
    start, books = copy.deepcopy(ours.state_dict()), copy.deepcopy(ours)
    adam = torch.optim.Adam(books.parameters(), lr=1e-4)
    engine = training.Engine(ours, deepspeed_config(run, "fp32", 1), run, ranks)
    for step in range(30):
        inputs, labels = torch.randn(512, 16), torch.randint(3, (512,))
        engine.backward(F.cross_entropy(engine(inputs), labels))
        engine.step(run.learning_rate_at(step, 5_365))
        adam.zero_grad()
        F.cross_entropy(books(inputs), labels, reduction="sum").backward()
        adam.step()
    found = engine.weights()
    for name, weight in books.state_dict().items():
        moved = (weight - start[name]).abs().max()
        assert moved > 20 * 1e-4
        # Only Adam's epsilon makes a difference between a sum and a mean.
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-3 * moved.item())
