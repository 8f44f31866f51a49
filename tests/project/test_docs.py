"""docs/ says what the code does: exit codes, the example of a message, a run file with columns and labels."""

from __future__ import annotations

import re
import runpy
import shlex
import signal

from bertnli.common.errors import InputError, Interrupted, RunError
from bertnli.data import column_names
from bertnli.data.labels import parse_label_names
from bertnli.data.pairs import PairFile
from bertnli.fetch.catalog import CATALOG
from bertnli.fetch.other_languages import XNLI_LANGUAGES
from bertnli.run.deepspeed_translation import SAME, SCHEDULES
from bertnli.run.loss_config import LOWER_IS_BETTER, METRICS
from bertnli.run.run_file import load_run
from bertnli.train import process, recorders
from bertnli.train.inputs import check_names
from tests.conftest import ROOT
from tests.support import pages

PAGE = ROOT / "docs" / "errors.md"


def test_the_exit_codes_are_those_of_the_code():
    codes = [0, RunError.exit_code, InputError.exit_code]
    codes += [Interrupted(number, "").exit_code for number in (signal.SIGINT, signal.SIGTERM)]
    assert re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE) == [str(code) for code in codes]


def test_the_example_is_what_the_command_prints(bertnli, tmp_path):
    (tmp_path / "pairs.tsv").write_text("premise\thypothesis\n")
    done = bertnli("score", "bundle", "pairs.tsv", "scores.tsv")
    assert done.returncode == 2
    assert pages.blocks(PAGE, "") == [done.stderr]


def test_columns_and_labels_of_your_own(tmp_path):
    page = ROOT / "docs" / "labels.md"
    block, scores = pages.blocks(page, "yaml")
    (tmp_path / "run.yaml").write_text(f"model: m\noutput: x\nepochs: 1\n{block}")
    run = load_run(tmp_path / "run.yaml").data
    assert run.label_names_of("train") == {"yes": "entailment", "maybe": "neutral", "no": "contradiction"}
    assert (run.columns_of("train").label, run.columns_of("eval").label) == ("verdict", "gold_label")
    (tmp_path / "scores.yaml").write_text(f"model: m\noutput: x\nepochs: 1\n{scores}")
    assert load_run(tmp_path / "scores.yaml").loss.kind == "bce"
    names = ("yes=entailment,maybe=neutral,no=contradiction", '"no, never=neutral"')
    assert all(text in page.read_text() for text in (f"--label-names {names[0]}", shlex.quote(names[1])))
    assert [len(parse_label_names("--label-names", text)) for text in names] == [3, 1]


def test_several_data_sets(tmp_path):
    block, on_the_hub = pages.blocks(ROOT / "docs" / "data.md", "yaml")
    (tmp_path / "run.yaml").write_text(f"model: m\noutput: x\nepochs: 1\n{block}")
    run = load_run(tmp_path / "run.yaml").data
    assert [one.name for one in run.sources("train")] == ["snli", "mnli-matched", "claims.csv"]
    assert [one.weight for one in run.sources("train")] == [1, 1, 2]
    assert run.sources("train")[2].label_names["not enough info"] == "neutral"
    assert run.sources("eval")[1].label_names == {"1": "entailment", "0": "contradiction"}
    (tmp_path / "hub.yaml").write_text(f"model: minilm\noutput: x\nepochs: 1\n{on_the_hub}")
    check_names(load_run(tmp_path / "hub.yaml"))


def test_the_named_data_sets():
    table = (ROOT / "docs" / "data.md").read_text().partition("## Names")[2]
    named = {name for name in re.findall(r"`([a-z0-9-]+)`", table) if name in CATALOG}
    shown = {one.name for one in CATALOG.values() if one.kind == "dataset" and one.listed_as in (None, "xnli-LANG")}
    other_rounds = {name for name in CATALOG if name.startswith(("anli-r2", "anli-r3"))}
    others = {f"xnli-{one}" for one in XNLI_LANGUAGES if one != "de"} | other_rounds
    assert named == shown - others | {"xnli-de-dev", "xnli-de-test"}


def test_the_usual_names_of_columns(tmp_path, monkeypatch):
    page = ROOT / "docs" / "columns.md"
    rows = [line.strip("|").split("|") for line in page.read_text().splitlines() if line.startswith("| `")]
    tables = [tuple(cell.strip(" `") for cell in row) for row in rows]
    pairs = [(*pair, use) for pair, use in column_names.OTHER_PAIRS.items()]
    labels = [*column_names.OTHER_LABELS.items(), *column_names.SCORE_COLUMNS.items()]
    assert tables == [*column_names.PAIR_COLUMNS, *pairs, *labels]
    assert all(f"* `{'`/`'.join(pair)}`: " in page.read_text() for pair in column_names.NOT_PAIRS)
    (tmp_path / "fever.jsonl").write_text('{"claim": "a", "evidence": "b", "label": "c"}')
    monkeypatch.chdir(tmp_path)
    file = PairFile("fever.jsonl")
    assert [f"{note}\n" for note in file.notes] == pages.blocks(page, "")


def test_losses_and_metrics(tmp_path):
    page = ROOT / "docs" / "losses.md"
    for number, block in enumerate(pages.blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        more = [line for line in ("model: m", "data: {train: a.tsv}") if line.partition(" ")[0] not in block]
        path.write_text("\n".join([*more, "output: x", "epochs: 1", block]))
        load_run(path)
    [table] = re.findall(r"^\| the model gives \| `metric_for_best` \|\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE)
    named = {metric for row in table.splitlines() for metric in re.findall(r"`(\w+)`", row)}
    assert named == {metric for metrics in METRICS.values() for metric in metrics}
    [lower] = re.findall(r"^(`.*`) are better if they are lower", page.read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", lower)) == LOWER_IS_BETTER


def test_the_optimizers_settings(tmp_path):
    (block,) = pages.blocks(ROOT / "docs" / "training.md", "yaml")
    (tmp_path / "run.yaml").write_text(f"model: m\noutput: x\nepochs: 1\ndata: {{train: t}}\n{block}")
    run = load_run(tmp_path / "run.yaml")
    assert (run.schedule, run.warmup, run.warmup_steps, run.betas) == ("cosine", None, 500, (0.9, 0.98))
    assert (run.layer_decay, run.freeze, run.gradient_checkpointing) == (0.9, "embeddings", True)


def test_the_page_of_names_from_elsewhere_is_that_of_the_tables():
    made = runpy.run_path(str(ROOT / "docs" / "from_elsewhere.py"))
    assert made["PAGE"].read_text() == made["page"](), "make it again: python docs/from_elsewhere.py"


def test_where_metrics_go(tmp_path):
    page = ROOT / "docs" / "report_to.md"
    [block] = pages.blocks(page, "yaml")
    (tmp_path / "run.yaml").write_text(f"model: m\noutput: x\nepochs: 1\ndata: {{train: a}}\n{block}")
    assert load_run(tmp_path / "run.yaml").report_to == ("tensorboard", "wandb")
    tags = [recorders.tag(name) for name in ("loss", "accuracy", "learning_rate", "eval_loss", "eval_accuracy")]
    assert all(f"`{tag}`" in page.read_text() for tag in tags)


def test_deepspeed_files(tmp_path, monkeypatch):
    page = ROOT / "docs" / "deepspeed.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ds_config.json").write_text('{"gradient_clipping": 3}')
    [block] = pages.blocks(page, "yaml")
    (tmp_path / "run.yaml").write_text(block)
    assert load_run("run.yaml").max_grad_norm == 3
    for line in pages.blocks(page, "sh")[0].splitlines():
        words = shlex.split(line.partition("run.yaml")[2])
        sets = (
            words[1::2] if words[0] == "--set" else process.sets_of(process.parser().parse_args(["run.yaml", *words]))
        )
        assert load_run("run.yaml", ["deepspeed={}", *sets]).max_grad_norm == 3
    table = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    for key, ours in SAME.items():
        section, _, name = key.rpartition(".")
        assert any(name in line and section in line and f"`{ours}`" in line for line in table), key
    assert all(name in page.read_text() for name in SCHEDULES)
