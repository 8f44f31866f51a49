"""score --candidate-labels: what transformers' zero-shot-classification pipeline gives, for a file of texts."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bertnli_export.score import score_file
from bertnli_export.scorer import Scorer
from bertnli_export.session import Session
from bertnli_export.zero_shot import TEMPLATE, ZeroShot, entailment_and_contradiction
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.data.tokenizer import PairTokenizer
from tests.conftest import Run
from tests.export.test_distributed import OPTIONS, job
from tests.support import tiny
from tests.support.bundles import with_outputs
from tests.support.command import command as command
from tests.support.scored_files import CHUNK, FORMATS, Stop, read, stop_after

pytestmark = pytest.mark.usefixtures("small_chunks")

LENGTH = 48  # tokens of a pair of the tiny model
LABELS = ("football", "a man, sleeping", "the beach", 'ice "cream"')
TEXTS = [row["sentence1"] for row in tiny.snli_rows(12)] + ["Two dogs run on a beach. " * 12]  # the last one is cut
NAMES = [
    ("entailment", "neutral", "contradiction"),
    ("CONTRADICTION", "neutral", "ENTAILMENT"),
    ("entailment", "not_entailment"),
    ("not_entailment", "entailment"),
]


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[Path, Any]]:
    """By the names of the labels: a bundle, and transformers' pipeline with the same model."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny.hf_folder(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(model, model_max_length=LENGTH)
    made = {}
    for names in NAMES:
        theirs = AutoModelForSequenceClassification.from_pretrained(model)
        kept = torch.nn.Linear(32, len(names))
        kept.weight.data, kept.bias.data = (part.data[: len(names)] for part in theirs.classifier.parameters())
        theirs.classifier, theirs.config.label2id = kept, {name: at for at, name in enumerate(names)}
        bundle = with_outputs(folder / "-".join(names), Outputs(names))
        made[names] = bundle, pipeline("zero-shot-classification", model=theirs, tokenizer=tokenizer, device="cpu")
    return made


def write(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        cells = ([json.dumps(one) if isinstance(one, list) else one for one in row.values()] for row in rows)
        writer.writerows([rows[0], *cells])
        path.write_text(text.getvalue())
    return path


def lists(row: dict[str, Any], names: tuple[str, ...], format: str) -> list[Any]:
    return [json.loads(row[name]) if format in ("tsv", "csv") else row[name] for name in names]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_labels_for_all_rows_are_those_of_the_pipeline(classifiers, names, multi_label, tmp_path) -> None:
    bundle, theirs = classifiers[names]
    source = write(tmp_path / "in.jsonl", [{"id": at, "text": text} for at, text in enumerate(TEXTS)])
    template = "This is about {}!"
    expansion = ZeroShot(LABELS, template=template, multi_label=multi_label)
    summary = score_file(bundle, source, tmp_path / "out.jsonl", device="cpu", expansion=expansion)
    assert (summary["rows"], summary["errors"], summary["truncated"]) == (len(TEXTS), 0, 1)
    found = read(tmp_path / "out.jsonl")
    columns = [f"p_{label}" for label in LABELS]
    assert list(found[0]) == ["id", "text", "label", "score", *columns, "truncated", "error"]
    for row, wanted in zip(
        found, theirs(TEXTS, list(LABELS), hypothesis_template=template, multi_label=multi_label), strict=True
    ):
        by_label = dict(zip(wanted["labels"], wanted["scores"], strict=True))
        np.testing.assert_allclose([row[name] for name in columns], [by_label[label] for label in LABELS], atol=1e-5)
        assert (row["text"], row["label"]) == (wanted["sequence"], wanted["labels"][0])
        assert row["score"] == max(row[name] for name in columns)


@pytest.mark.parametrize("format", FORMATS)
def test_labels_of_each_row_are_those_of_the_pipeline(classifiers, format, tmp_path) -> None:
    bundle, theirs = classifiers[NAMES[0]]
    own: list[Any] = [list(LABELS), ["football"], list(LABELS[1:3])] * 4
    own = [*own[:9], ["football", "a man, sleeping"], list(LABELS), ["the beach", "dogs"]]
    rows = [{"sentence": text, "topics": some} for text, some in zip(TEXTS[1:], own, strict=True)]
    source, out = write(tmp_path / f"in.{format}", rows), tmp_path / f"out.{format}"
    score_file(bundle, source, out, device="cpu", expansion=ZeroShot.read("topics"))
    found = read(out)
    assert [name for name in found[0] if name not in rows[0] and name != "raw"] == [
        *("label", "score", "labels", "scores", "truncated", "error")
    ]
    for row, asked in zip(found, rows, strict=True):
        wanted = theirs(asked["sentence"], asked["topics"])
        labels, scores = lists(row, ("labels", "scores"), format)
        assert labels == wanted["labels"] and row["label"] == labels[0]
        np.testing.assert_allclose([float(row["score"]), *scores], [wanted["scores"][0], *wanted["scores"]], atol=1e-5)
    if format == "parquet":
        types = [str(pq.read_schema(out).field(name).type) for name in ("labels", "scores")]
        assert types == ["list<element: string>", "list<element: double>"]


def test_text_with_a_separator_is_labels_and_bad_cells_are_errors_of_their_rows(tmp_path) -> None:
    cells = {
        "a; b ;c": ["a", "b", "c"],
        "a|b": ["a", "b"],
        "a,b": ["a", "b"],
        "sports news": ["sports news"],
        '["a,b", "c"]': ["a,b", "c"],
        None: "no candidate labels",
        "": "an empty label",
        "a,,b": "an empty label",
        "a|b,c": "both | and , between them",
        "[a]": "no JSON list",
        "a;b;a": "'a' 2 times",
        "long|" + "a dog " * 50: "alone fills the 48 tokens",
        "a;c": ["a", "c"],
    }
    rows: list[dict[str, Any]] = [{"text": "A man.", "labels": cell} for cell in cells]
    more: dict[str, Any] = {"number": (3, "are a number"), "list": ([], "none"), "mixed": (["a", 1], "not text")}
    rows += [{"text": "A man.", "labels": cell} for cell, _ in more.values()] + [{"text": " ", "labels": "a,b"}]
    wanted = [*cells.values(), *(reason for _, reason in more.values()), "empty premise"]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    summary = score_file(tiny.bundle(), source, out, device="cpu", expansion=ZeroShot(column="labels"), prefix="zs_")
    for row, expected in zip(read(out), wanted, strict=True):
        if isinstance(expected, list):
            assert sorted(row["zs_labels"]) == sorted(expected) and row["zs_error"] is None
        else:
            assert expected in row["zs_error"] and row["zs_label"] is row["zs_scores"] is None
    assert summary["errors"] == sum(isinstance(one, str) for one in wanted)


def test_columns_of_texts(tmp_path) -> None:
    expansion = ZeroShot(("a", "b"))

    def scored(content: str, name: str = "in.csv", **options: Any) -> list[dict[str, Any]]:
        (tmp_path / name).write_text(content)
        score_file(tiny.bundle(), tmp_path / name, tmp_path / "o.jsonl", expansion=expansion, restart=True, **options)
        return read(tmp_path / "o.jsonl")

    from bertnli.data.dialect import Dialect
    from bertnli.data.pairs import Columns

    assert [row["error"] for row in scored("text\nA man.\n\npremise\n")] == [None, "blank line", None]
    assert [row["error"] for row in scored("text,n\nA man.,1\ntext,2\ntext,n\n")] == [
        *(None, None, "a second header; the file may be several that were put together")
    ]
    assert scored("Sequence;n\nA man, a dog;1\n")[0]["Sequence"] == "A man, a dog"
    assert scored("body\ttext\nA man.\tx\n", "in.tsv", columns=Columns("body"))[0]["label"] in "ab"
    assert scored("A man.\nA dog.\n", dialect=Dialect(header=False))[1]["1"] == "A dog."
    assert scored("", "in.jsonl") == []
    with pytest.raises(InputError, match=r"2 columns of texts.*; found 'text' and 'sentence'; name one with --premise"):
        scored("text,sentence\na,b\n")
    with pytest.raises(InputError, match="no column with the texts; found columns 'body'; expected premise or text or"):
        scored("body\nA man.\n")
    with pytest.raises(InputError, match="no column 'x'"):
        scored("text\nA man.\n", columns=Columns("x"))
    with pytest.raises(InputError, match="'label' has the name of one that the output adds"):
        scored("text,label\na,b\n")


def test_texts_are_tokenised_once(monkeypatch, tmp_path) -> None:
    seen: list[str] = []
    real = PairTokenizer._encode_sentences

    def encode(self: PairTokenizer, sentences: list[str], whole: bool) -> Any:
        seen.extend(sentences)
        return real(self, sentences, whole)

    monkeypatch.setattr(PairTokenizer, "_encode_sentences", encode)
    source = write(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])
    score_file(Scorer(tiny.bundle(), "cpu"), source, tmp_path / "out.jsonl", expansion=ZeroShot(LABELS))
    assert sorted(set(TEXTS)) == sorted(text for text in seen if text in TEXTS)


def test_workers_ray_and_a_stopped_run_write_the_same(tmp_path) -> None:
    rows = [{"text": row["sentence1"], "topic": "x"} for row in tiny.snli_rows(CHUNK)]
    source, out = write(tmp_path / "in.tsv", rows), tmp_path / "out.tsv"
    options: dict[str, Any] = {"device": "cpu", "expansion": ZeroShot(LABELS), "checkpoint_seconds": 0}
    score_file(tiny.bundle(), source, tmp_path / "whole.tsv", **options)
    score_file(tiny.bundle(), source, tmp_path / "two.tsv", workers=2, **options)
    from bertnli_export.distributed import _PartitionWorker

    work = job(options={**OPTIONS, "expansion": ZeroShot(LABELS)})
    _PartitionWorker(work, None)._score(str(source), str(tmp_path / "ray.tsv"))
    with pytest.raises(Stop):
        score_file(tiny.bundle(), source, out, progress=stop_after(3), **options)
    for other in (ZeroShot(LABELS[:3]), ZeroShot(LABELS, template="{}"), ZeroShot(LABELS, multi_label=True)):
        with pytest.raises(InputError, match=r"options: (candidate labels|hypothesis template|multi-label) was"):
            score_file(tiny.bundle(), source, out, **{**options, "expansion": other})
    assert score_file(tiny.bundle(), source, out, **options)["resumed_at"] == 2 * CHUNK // len(LABELS)
    made = {(tmp_path / name).read_bytes() for name in ("out.tsv", "two.tsv", "ray.tsv", "whole.tsv")}
    assert len(made) == 1


def test_a_temperature_divides_the_logits_and_changes_no_label(tmp_path) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])
    found = {}
    for temperature in (1.0, 3.0):
        out = tmp_path / f"{temperature}.jsonl"
        score_file(tiny.bundle(), source, out, temperature=temperature, device="cpu", expansion=ZeroShot(LABELS))
        found[temperature] = read(out)
    for one, three in zip(found[1.0], found[3.0], strict=True):
        assert one["label"] == three["label"]
        ratios = [np.log(row["p_football"] / row["p_the beach"]) for row in (one, three)]
        assert ratios[0] == pytest.approx(3 * ratios[1], abs=1e-3)


def test_scores_that_are_no_numbers_are_an_error_of_their_row(tmp_path, monkeypatch) -> None:
    real = Session.logits

    def logits(self: Session, *inputs: Any) -> np.ndarray:
        found = real(self, *inputs)
        if inputs[0].shape[1] == LENGTH:  # of the text that is cut
            found[0] = -np.inf
        return found

    monkeypatch.setattr(Session, "logits", logits)
    source, out = write(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS]), tmp_path / "out.jsonl"
    score_file(Scorer(tiny.bundle(), "cpu"), source, out, expansion=ZeroShot(LABELS))
    found = read(out)
    assert [row["error"] for row in found] == [*[None] * (len(TEXTS) - 1), "the model's scores are not finite numbers"]
    assert (found[-1]["label"], found[-1]["p_football"]) == (None, None)


def test_in_python_the_scores_are_those_of_a_file(tmp_path) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])
    expansion, scorer = ZeroShot(LABELS, multi_label=True), Scorer(tiny.bundle(), "cpu")
    score_file(scorer, source, tmp_path / "out.jsonl", expansion=expansion)
    own = scorer.score([(text, LABELS[::-1]) for text in TEXTS], replace(expansion, labels=None, column="any"))
    for row, one, other in zip(read(tmp_path / "out.jsonl"), scorer.score(TEXTS, expansion), own, strict=True):
        assert one.probabilities == pytest.approx({label: row[f"p_{label}"] for label in LABELS}, abs=1e-6)
        assert (one.label, one.truncated) == (row["label"], row["truncated"])
        assert (other.label, other.probabilities) == (one.label, one.probabilities)
    with pytest.raises(InputError, match="premise of pair 0; found 5; expected text"):
        scorer.score([5], expansion)
    with pytest.raises(InputError, match="a pair to score: candidate labels: an empty label"):
        scorer.score([("a", ["b"]), ("a", ["b", ""])], ZeroShot(column="any"))
    with pytest.raises(InputError, match=r"what to score; found 'A man.'; expected a list of texts"):
        scorer.score("A man.", expansion)
    for wrong in (5, {"text": "a", "labels": ["b"]}, ("a", None)):
        with pytest.raises(InputError, match=r"a text to classify; found|no candidate labels; found"):
            scorer.score([wrong], ZeroShot(column="any"))


# --- options


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (Outputs(("entailment", "neutral", "contradiction")), (0, 2)),
        (Outputs(("entailment", "contradiction", "neutral")), (0, 1)),
        (Outputs(("Contradictory", "Entails", "other")), (1, 0)),
        (Outputs(("no", "entailment")), (1, 0)),
        (Outputs(("entailment", "neutral", "other")), None),
        (Outputs(("entailment", "entails_not", "contradiction")), None),
        (Outputs(("yes", "no")), None),
        (Outputs(("score",), "regression", "identity"), None),
        (Outputs(("entailment", "contradiction"), "multi_label_classification", "sigmoid"), None),
    ],
)
def test_entailment_is_found_by_its_name(outputs, found) -> None:
    if found:
        assert entailment_and_contradiction(outputs) == found
    else:
        with pytest.raises(
            InputError, match=r"the model; found .*; expected one with the labels entailment and contra"
        ):
            entailment_and_contradiction(outputs)


def test_what_the_option_says(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "topics.txt").write_bytes("\ufeffsports\r\npolitics, and war\r\n".encode())
    assert ZeroShot.read("topics.txt").labels == ("sports", "politics, and war")
    assert ZeroShot.read('a, "b, c"').labels == ("a", "b, c")
    assert len(ZeroShot.read(",".join(map(str, range(2000)))).labels or ()) == 2000
    assert ZeroShot.read('["sports"]').labels == ("sports",)
    assert ZeroShot.read(' ["a, b", "[c]"] ').labels == ("a, b", "[c]")
    assert (ZeroShot.read("topics").labels, ZeroShot.read("topics").column) == (None, "topics")
    for content, message in (("a\n\nb\n", "an empty label"), ("", "none"), ("a\nb\na\n", "'a' 2 times")):
        (tmp_path / "bad.txt").write_text(content)
        with pytest.raises(InputError, match=f"--candidate-labels bad.txt; found {message}"):
            ZeroShot.read("bad.txt")
    with pytest.raises(InputError, match="found an empty label, number 2"):
        ZeroShot.read("a,,b")
    for given, message in (
        ("a,b\nc", "there is a line end in it; write a JSON list, or a file"),
        ('a,"b', "its quotes do not enclose labels"),
        ('"a" b,c', "its quotes do not enclose labels"),
        ("['a', 'b']", "no JSON list"),
        ("[" * 100_000 + ",]", "no JSON list"),
    ):
        with pytest.raises(InputError, match=f"(?s)--candidate-labels .*{message}"):
            ZeroShot.read(given)
    (tmp_path / "bad.txt").write_bytes("é\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"cannot be read .*UTF-16"):
        ZeroShot.read("bad.txt")
    with pytest.raises(InputError, match="found 'ab'; expected a list of labels"):
        ZeroShot("ab")  # type: ignore[arg-type]  # its characters are no labels
    for template in ("This is it.", "{} is {}", "{0}", "{label} {}", "\0 {}", "\udcff {}", None):
        with pytest.raises(InputError, match="--hypothesis-template; found"):
            ZeroShot(("a",), template=template)  # type: ignore[arg-type]
    assert ZeroShot(("a",)).template == TEMPLATE


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "a\rb, c\r", ("a", "b, c")),  # as old Macs end lines
        ("a.txt", '["a", "b, c"]\n', ("a", "b, c")),
        ("a.json", '[\n  "a",\n  "b, c"\n]', ("a", "b, c")),
        ("a.txt", "[other]\nb, c", ("[other]", "b, c")),
        ("a.json", '{"labels": ["a"]}', "cannot be read .no JSON list"),
        ("a.txt", "id\tlabel\n1\tsport\n", "line 1; found a tab; expected a label in each line, and nothing else"),
        ("a.txt", "[1, 2]", "found a label that is not text: 1"),
    ],
)
def test_files_of_labels(tmp_path, name: str, content: str, expected: tuple[str, ...] | str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    if isinstance(expected, tuple):
        assert ZeroShot.read(str(tmp_path / name)).labels == expected
    else:
        with pytest.raises(InputError, match=f"--candidate-labels .*{name}.*{expected}"):
            ZeroShot.read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--candidate-labels", "topics.txt"], "topics.txt: found labels, and a column of this name in in.jsonl"),
        (
            ["--candidate-labels", "nothing"],
            "no such column in the first object of in.jsonl, which has 'text', 'topics",
        ),
        (["--candidate-labels", "text"], "text: found the column of the texts in in.jsonl; expected another column"),
        (
            ["--candidate-labels", "a,b", "--label", "topics.txt"],
            "--hypothesis, --label; found also --candidate-labels",
        ),
        (["--candidate-labels", "a,b", "--windows", "premise"], "--windows; found also --candidate-labels"),
        (["--multi-label"], "--hypothesis-template, --multi-label; found no --candidate-labels"),
        (["--hypothesis-template", "{}"], "found no --candidate-labels"),
        (["--candidate-labels", "a,b", "--hypothesis-template", ""], "--hypothesis-template; found ''"),
    ],
)
def test_options_that_mean_nothing_are_refused(command: Run, tmp_path, options, message) -> None:
    write(tmp_path / "in.jsonl", [{"text": "A man.", "topics.txt": "a,b"}])
    (tmp_path / "topics.txt").write_text("a\nb\n")
    done = command("score", tiny.bundle(), "in.jsonl", "out.jsonl", *options)
    assert done.returncode == 2 and message.replace(": found", "; found") in done.stderr, done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command(command: Run, tmp_path) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])
    (tmp_path / "topics.txt").write_text("\n".join(LABELS))
    more = ["--hypothesis-template", "It is {}.", "--multi-label", "--device", "cpu", "--json"]
    done = command("score", tiny.bundle(), "in.jsonl", "out.jsonl", "--candidate-labels", "topics.txt", *more)
    assert done.returncode == 0, done.stderr
    assert "note: 4 candidate labels: 'football', 'a man, sleeping'" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["notes"][0].startswith("note: 4 candidate labels")
    score_file(tiny.bundle(), source, tmp_path / "b.jsonl", expansion=ZeroShot(LABELS, None, "It is {}.", True))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
