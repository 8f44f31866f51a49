"""The report is one well-formed page that says what it was given; the model card is one that the hub can read."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import RunError
from bertnli.data.outputs import Outputs
from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.report import charts, report
from bertnli.report.licences import notes_about
from bertnli.report.model_card import write_model_card
from bertnli.report.provenance import provenance
from tests.support.tiny import hf_folder

LABELS = ["entailment", "neutral", "contradiction"]
CONFUSION = [[2585, 387, 396], [392, 2446, 381], [373, 358, 0]]
FIGURES = {"Accuracy": "78.0%", "Scoring": "251 pairs/s"}
VOID = {"meta", "link", "br", "img", "hr", "input", "path", "circle"}
HOSTILE = """<script>alert("1")</script> & 'quoted' {{ 7 * 7 }} </style></title>"""


def evaluation(labels: Sequence[str] = LABELS, text: str = "A man eats.") -> dict[str, Any]:
    metrics = ClassificationMetrics(labels)
    metrics.confusion += np.array(CONFUSION)
    metrics.log_loss, metrics.squared_error = 0.4 * metrics.rows, 0.3 * metrics.rows
    metrics.bins[[7, 13]] = [2318, 1250.5, 1159], [5000, 4500, 3872]
    example = {
        "row": 1234,
        "premise": text,
        "hypothesis": f"{text} Slowly.",
        "gold": labels[1],
        "predicted": labels[0],
        "probabilities": dict(zip(labels, [0.9, 0.08, 0.02], strict=True)),
    }
    return {
        "data": "a.tsv",
        **metrics.to_json(),
        "no_gold_rows": 176,
        "bad_rows": 3,
        "rows_by_label": {
            "entailment": {"used": 16, "left out": 2},
            "without a gold label": {"used": 0, "left out": 1234},
        },
        "examples": {"right": [{**example, "gold": labels[0]}] * 10, "wrong": [example] * 10},
        "seconds": 20.0,
        "pairs_per_second": 365.9,
    }


def metrics() -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for step in range(1, 401):
        rows.append(
            {"step": step, "loss": 1.1 - step / 500, "learning_rate": 1e-4 * (1 - step / 400), "pairs_per_second": 80.0}
        )
        if step % 100 == 0:
            rows.append({"step": step, "eval_loss": 1.0 - step / 1000, "eval_accuracy": 0.5 + step / 1000})
    return rows


class Page(HTMLParser):
    """A page as its elements; complains about tags that do not match, as a browser would not."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []  # (open tags, text)
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((tuple(self.open), " ".join(data.split())))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, *inside: str) -> list[str]:
        return [text for tags, text in self.texts if tags[len(tags) - len(inside) :] == inside]


def written(tmp_path: Path, **given: Any) -> str:
    path = tmp_path / "runs" / "report.html"
    report.write_report(path, **{"title": "A run", "figures": FIGURES, **given})
    return path.read_text(encoding="utf-8")


@pytest.fixture
def full(tmp_path: Path) -> str:
    return written(
        tmp_path,
        metrics=metrics(),
        evaluations={"snli-test": evaluation(), "mine": evaluation(["a", "b", "c"])},
        provenance=provenance(),
        notes=["SNLI: CC BY-SA 4.0, see https://nlp.example.org/snli for more."],
    )


def test_the_page_is_well_formed_and_needs_nothing_else(full: str) -> None:
    assert full.startswith("<!DOCTYPE html>")
    page = Page(full)
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "xlink:href", "action", "data", "poster"):
            assert name not in attributes or tag == "a"
    style = full[full.index("<style>") : full.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert [link["href"] for link in page.all("a")] == ["https://nlp.example.org/snli"]
    assert "prefers-color-scheme: dark" in style
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_a_screen_reader_finds_its_way(full: str) -> None:
    page = Page(full)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("title")) - 6 == 1  # and one in each chart
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for target in (attributes.get("aria-labelledby") or "").split():
            assert target in ids
    assert all("scope" in header for header in page.all("th"))
    drawn = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert len(drawn) == 6 and all(svg["role"] == "img" and svg["aria-labelledby"] for svg in drawn)
    over = ["optimizer steps"] * 4 + ["probability of the predicted label"] * 2
    titles = zip(page.text("figcaption", "h3"), over, strict=True)
    assert page.text("svg", "title") == [f"{title} over {axis}" for title, axis in titles]
    assert page.text("svg", "desc")[0] == (
        "training, mean: 1.09 at step 1, 0.31 at step 400; lowest 0.31, highest 1.09. "
        "evaluation: 0.9 at step 100, 0.6 at step 400; lowest 0.6, highest 0.9."
    )
    assert page.text("svg", "desc")[4] == (
        "Accuracy by confidence: 50% right at 54% (2,318 rows); 77% right at 90% (5,000 rows)."
    )


def test_the_page_says_what_it_was_given(full: str) -> None:
    page = Page(full)
    assert dict(zip(page.text("dl", "div", "dt"), page.text("dl", "div", "dd"), strict=True)) == FIGURES
    assert page.text("h2") == [
        "Summary",
        "Data, licences and limitations",
        "Training",
        "Evaluation: snli-test",
        "Evaluation: mine",
        "How these figures were made",
    ]
    counts = [f"{count:,}" for row in CONFUSION for count in row]
    assert page.text("tbody", "tr", "td", "b") == counts * 2
    shares = [f"{100 * count / sum(row):.1f}%" for row in CONFUSION for count in row]
    assert page.text("tbody", "tr", "td", "small") == shares * 2
    coloured = [cell["class"] for cell in page.all("td") if "class" in cell]
    assert coloured == ["right" if index % 4 == 0 else "wrong" for index in range(9)] * 2
    text = " ".join(text for _, text in page.texts)
    one = evaluation()
    low, high = one["accuracy_interval"]
    assert f"Accuracy {one['accuracy']:.1%} (95% interval {low:.1%} to {high:.1%}) on 7,318 rows." in text
    assert "176 rows without a gold label, 3 unusable rows." in text
    assert "label used left out entailment 16 2 without a gold label 0 1,234" in text
    precision = one["per_class"]["neutral"]["precision"]
    assert f"neutral {precision:.1%} 76.0% {one['per_class']['neutral']['f1']:.1%} 3,219" in text
    assert "Expected calibration error 9.8%" in text and "Brier score 0.300" in text
    assert "86.7% to 93.3% 5,000 90.0% 77.4%" in text
    assert len(page.text("ol", "li", "p")) == 40 and text.count("Row 1,234") == 40
    assert "python" in page.text("tr", "th") and np.__version__ in page.text("tr", "td")
    assert len(page.text("td", "code")) == 1


def test_sections_with_nothing_to_say_are_left_out(tmp_path: Path) -> None:
    metrics = {key: value for key, value in evaluation().items() if key in ClassificationMetrics(LABELS).to_json()}
    page = Page(written(tmp_path, evaluations={"dev": metrics}))
    assert page.text("h2") == ["Summary", "Evaluation: dev"]
    assert page.text("h3") == ["Confusion matrix", "Metrics of each label", "Calibration", "Reliability diagram"]
    assert Page(written(tmp_path, figures={})).text("h2") == []


def test_text_from_data_stays_text(tmp_path: Path) -> None:
    page = Page(
        written(
            tmp_path,
            title=HOSTILE,
            figures={HOSTILE: HOSTILE},
            evaluations={HOSTILE: evaluation([HOSTILE, "<b>", "c"], text=HOSTILE)},
            provenance={"command": HOSTILE, HOSTILE: "x"},
            notes=[HOSTILE, 'https://x.example/"onclick="alert(1)'],
        )
    )
    shown = " ".join(HOSTILE.split())
    assert page.text("head", "title") == page.text("h1") == [shown]
    assert page.text("td", "code") == [shown]
    assert page.text("dl", "dd")[0] == shown
    assert not page.all("script") and len(page.all("style")) == 1
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)


@pytest.mark.parametrize("text", ["entailment", HOSTILE])
def test_what_eval_finds_is_on_the_page(tmp_path: Path, text: str) -> None:
    one = evaluation([text, "b", "c"], text)
    interval = {"accuracy": 0.75, "accuracy_interval": [0.6, 0.86]}
    one["temperature"], one["without_temperature"] = 1.25, {"loss": 0.61, "brier": 0.5, "ece": 0.123}
    one["calibration"] = {"data": text, "temperature": 1.25, "rows": 9842, "loss": 0.52, "loss_without": 0.6}
    one["swapped_labels"] = {"labels": ["b", "c", text], "accuracy": 0.987}
    one["slices"] = {
        "length": [{"slice": "0 to 10", "rows": 1200, **interval}, {"slice": "11 to 15", "rows": 3, **interval}],
        "agreement": [{"slice": "3 of 5", "rows": 2, **interval}],
    }
    changed = [{**example, "other": "c"} for example in one["examples"]["wrong"][:2]]
    one["against"] = {**evaluation(["c", "b", text]), "model": text, "changed": 1300, "changed_examples": changed}
    one["against"] |= {"only_this_right": 70, "only_other_right": 50, "p_value": 0.0825}
    one |= {"truncated": 1200, "max_length": 128}
    page = Page(written(tmp_path, evaluations={"dev": one}))
    shown = " ".join(text.split())
    assert page.text("h3")[:6] == [
        *(
            "Confusion matrix",
            "Metrics of each label",
            "Calibration",
            "Reliability diagram",
            "Slices",
            f"Against {shown}",
        )
    ]
    everything = " ".join(text for _, text in page.texts)
    for words in (
        f"Warning: the labels look swapped: in the order b, c, {shown} the model's outputs would be right on 98.7%",
        "The model has a temperature, 1.25; its logits are divided by it. Without it: expected",
        f"The temperature, 1.25, was fitted on 9,842 rows of {shown}. There it changed the mean log loss from 0.600 to",
        "words of premise and hypothesis accuracy 95% interval 0 to 10 1,200 rows 75.0% 60.0% to 86.0% 11 to 15 3 rows",
        "annotators who gave the gold label accuracy 95% interval 3 of 5 2 rows",
        "1,300 predictions differ: only this model is right on 70 rows, only the other on 50.",
        "p = 0.0825",
        "1,200 pairs are longer than 128 tokens, and were cut; score --windows premise reads whole premises.",
    ):
        assert words in everything, words
    assert page.text("dl", "dt").count("The other") == 2 and not page.all("script")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and all("scope" in header for header in page.all("th"))


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    given = {"metrics": metrics(), "evaluations": {"dev": evaluation()}}
    assert written(tmp_path / "a", **given) == written(tmp_path / "b", **given)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("the last one")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(RunError, match=r"report\.html: cannot be written: No space left"):
            report.write_report(path, title="A run", figures=FIGURES)
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"] and path.read_text() == "the last one"
    with pytest.raises(RunError, match="cannot be written"):
        report.write_report(path / "report.html", title="A run", figures=FIGURES)


def test_a_command_that_is_not_unicode_can_be_shown(tmp_path: Path) -> None:
    assert "caf\\udce9.tsv" in written(tmp_path, provenance={"command": "bertnli score caf\udce9.tsv"})


# Charts


def test_curves_stand_where_their_values_are() -> None:
    loss, accuracy, rate, _ = report.training_charts(metrics())
    assert [line.name for line in loss.lines] == ["each step", "training, mean", "evaluation"]
    marks = accuracy.lines[0]
    assert accuracy.y_ticks[0][1] == "60%" and accuracy.y_ticks[-1][1] == "90%" and marks.last == "90%"
    (left, low), *_, (right, high) = marks.points
    assert low == accuracy.y_ticks[0][0] and high == accuracy.y_ticks[-1][0] == charts.TOP
    assert right == charts.WIDTH - charts.RIGHT
    assert left == pytest.approx(charts.LEFT + (right - charts.LEFT) / 4, abs=0.1)
    assert [text for _, text in rate.y_ticks] == ["0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"]
    assert [text for _, text in rate.x_ticks] == ["0", "100", "200", "300", "400"]


def test_a_bin_stands_at_its_confidence_and_accuracy() -> None:
    drawn = charts.reliability(evaluation()["reliability"])
    assert drawn is not None
    diagonal, accuracy = drawn.lines
    (left, low), (right, high) = diagonal.points
    assert (left, right) == (drawn.x_ticks[0][0], drawn.x_ticks[-1][0])
    assert (low, high) == (drawn.y_ticks[0][0], drawn.y_ticks[-1][0])
    assert [text for _, text in drawn.x_ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    x, y = accuracy.points[1]
    assert x == pytest.approx(left + 0.9 * (right - left), abs=0.1)
    assert y == pytest.approx(low + 3872 / 5000 * (high - low), abs=0.1)
    assert charts.reliability([]) is None


def test_a_step_done_twice_counts_as_it_was_last_and_what_is_not_finite_is_not_drawn() -> None:
    rows = [
        {"step": 1, "loss": 9.0},
        {"step": 2, "loss": float("nan")},
        {"step": 1, "loss": 1.0},
        {"step": 3, "loss": 2.0},
    ]
    series = charts.Series.of("loss", rows, "loss")
    assert series.steps.tolist() == [1, 3] and series.values.tolist() == [1, 2]
    assert charts.chart("Loss", [charts.Series.of("none", rows, "eval_loss")]) is None


def test_one_value_alone_can_be_drawn() -> None:
    drawn = charts.chart("Loss", [charts.Series("loss", np.array([1.0]), np.array([0.7]))])
    assert drawn is not None
    [(x, y)] = drawn.lines[0].points
    assert x == charts.WIDTH - charts.RIGHT and charts.TOP < y < charts.HEIGHT - charts.BOTTOM


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000))
def test_thinning_and_smoothing_keep_the_mean_and_the_range(values: list[float]) -> None:
    series = charts.Series("loss", np.arange(1.0, len(values) + 1), np.array(values))
    thin = series.thinned()
    assert len(thin.steps) == len(thin.values) <= 300
    assert np.all(np.diff(thin.steps) > 0)
    for other in (thin, series.smoothed("mean")):
        assert other.values.min() >= min(values) - 1e-3 and other.values.max() <= max(values) + 1e-3
    constant = charts.Series("loss", series.steps, np.full(len(values), 0.7)).smoothed("mean")
    np.testing.assert_allclose(constant.values, 0.7)


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.integers(2, 8))
def test_ticks_are_even_cover_the_range_and_differ(low: float, width: float, count: int) -> None:
    ticks = charts.ticks(low, low + width, count)
    assert 2 <= len(ticks) <= count + 3
    apart = np.diff(ticks)
    np.testing.assert_allclose(apart, apart[0], rtol=1e-6)
    slack = 1e-6 * apart[0]
    assert ticks[0] <= low + slack and ticks[-1] >= low + width - slack
    texts = [charts.number(tick, 4) for tick in ticks]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12_000, "12,000"), (0.8534, "0.853"), (1e-4, "1e-4"), (5e-5, "5e-5"), (78.66, "78.7"), (1.0, "1")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert charts.number(value) == text


# The model card


def card(folder: Path, **given: Any) -> Any:
    from huggingface_hub import ModelCard

    settings = {"learning_rate": 1e-4, "epochs": 2}
    known = {
        "name": "snli-minilm",
        "family": "bert",
        "outputs": Outputs(LABELS),
        "base_model": "minilm",
        "data": ["snli-100k"],
    }
    write_model_card(folder, **{**known, "settings": settings, "evaluations": {"snli-test": evaluation()}, **given})
    return ModelCard.load(folder / "README.md")


def test_the_card_is_one_that_the_hub_reads(tmp_path: Path) -> None:
    found = card(tmp_path)
    data = found.data.to_dict()
    assert data["base_model"] == "sentence-transformers/all-MiniLM-L6-v2" and data["license"] == "apache-2.0"
    assert data["datasets"] == ["stanfordnlp/snli"] and data["language"] == "en"
    assert data["pipeline_tag"] == "text-classification" and data["library_name"] == "transformers"
    assert "natural-language-inference" in data["tags"] and "accuracy" in data["metrics"]
    accuracy = next(one for one in found.data.eval_results if one.metric_type == "accuracy")
    assert accuracy.metric_value == round(evaluation()["accuracy"], 4) and accuracy.dataset_name == "snli-test"
    text = found.text
    assert "| snli-test | 7,318 | 68.7% |" in text and "| neutral | 392 | 2,446 | 381 |" in text
    assert "| 2 | contradiction |" in text and r"| learning\_rate | 0.0001 |" in text
    assert "CC BY-SA 4.0" in text and "Apache-2.0" in text
    assert "trained on sentence pairs that include SNLI and MNLI" in " ".join(text.split())


def test_report_and_card_show_the_rows_that_training_used_and_left_out(tmp_path: Path) -> None:
    rows = {"data.train: <a|b>": {"x|y": {"trained on": 7000, "held out": 60, "left out": 3}}}
    page = Page(written(tmp_path, rows_by_label=rows))
    text = " ".join(text for _, text in page.texts)
    assert "data.train: <a|b>" in text and "label trained on held out left out x|y 7,000 60 3" in text
    assert "Rows by label" in page.text("h2") and all("scope" in header for header in page.all("th"))
    found = card(tmp_path, rows_by_label=rows).text
    assert "## Rows by label\n\ndata.train: &lt;a\\|b&gt;\n\n| label | trained on | held out | left out |\n" in found
    assert "\n| --- | ---: | ---: | ---: |\n| x\\|y | 7,000 | 60 | 3 |\n" in found


def test_a_d2l_card_says_that_transformers_cannot_load_it(tmp_path: Path) -> None:
    found = card(tmp_path, family="d2l", base_model="bert.small", data=["my/pairs.tsv"])
    data = found.data.to_dict()
    assert "transformers cannot load this folder" in found.text and "from transformers" not in found.text
    assert data["library_name"] == "bertnli" and data["license"] == "other"
    assert "base_model" not in data and "datasets" not in data and "language" not in data
    assert "bertnli score" in found.text and "my/pairs.tsv: its licence is not recorded" in found.text


def test_hostile_names_stay_text_in_the_card(tmp_path: Path) -> None:
    labels = ["a|b", "<script>x</script>", "`c`\n# head"]
    found = card(
        tmp_path, name="x: [y]\n---\nz", outputs=Outputs(tuple(labels)), evaluations={"d|e": evaluation(labels)}
    )
    assert found.data.model_name == "x: [y]\n---\nz"
    assert "<script" not in found.text and r"| 2 | \`c\` \# head |" in found.text
    table = [line for line in found.text.splitlines() if line.startswith("| a\\|b |")]
    assert len(table) == 1 and table[0].startswith("| a\\|b | 2,585 | 387 | 396 |")


def test_what_the_card_says_to_do_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hf_folder(tmp_path)
    text = card(tmp_path).text
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        exec(program.replace("path/to/this/folder", str(tmp_path)), {})
    printed = capsys.readouterr().out
    assert all(printed.count(label) == 2 for label in LABELS)


# Where the figures come from


def test_provenance_says_command_machine_and_versions_and_imports_nothing_heavy() -> None:
    program = (
        "import sys, json; from bertnli.evaluation import evaluate; from bertnli.report.provenance import provenance;"
        "facts = provenance();"
        "heavy = {'torch', 'deepspeed', 'onnxruntime', 'pyarrow', 'huggingface_hub', 'jinja2', 'transformers'};"
        "print(json.dumps([facts, sorted(heavy & set(sys.modules))]))"
    )
    command = [sys.executable, "-c", program, "train", "my run.yaml"]
    facts, heavy = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert heavy == []
    assert facts["command"] == "-c train 'my run.yaml'"
    assert facts["numpy"] == np.__version__ and facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["time"]) and "core" in facts["processor"]


def test_notes_name_licences_and_disclosures(tmp_path: Path) -> None:
    notes = notes_about("minilm", ["snli-100k", "snli-100k", "my/pairs.tsv"])
    assert len(notes) == 4
    assert "Apache-2.0" in notes[0] and "include SNLI and MNLI" in notes[1] and "CC BY-SA 4.0" in notes[2]
    assert notes[3].startswith("my/pairs.tsv: its licence is not recorded")


def test_a_folder_that_looks_like_a_hub_id_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "model hub" in notes_about("runs/model", [])[0]
    (tmp_path / "runs" / "model").mkdir(parents=True)
    assert "not recorded" in notes_about("runs/model", [])[0]
    assert "base_model" not in card(tmp_path, base_model="runs/model").data.to_dict()
    found = card(tmp_path, base_model="org/name@v1", base_revision="c" * 40)
    assert found.data.to_dict()["base_model"] == "org/name"
    assert f"from org/name@v1 (commit {'c' * 40} on the model hub) on" in found.text.replace("\\", "")
