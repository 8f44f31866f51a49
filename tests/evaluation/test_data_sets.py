"""The named data sets, each fetched from a stand-in for its maker's server in the maker's own format, and measured."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bertnli_export.parity import RealRows
from bertnli_export.scorer import Scorer
from bertnli_export.verify import verify
from numpy.typing import NDArray

from bertnli.common.errors import InputError, RunError
from bertnli.data.labelled import read_labelled
from bertnli.data.outputs import Outputs
from bertnli.evaluation.calibrate import calibrate
from bertnli.evaluation.data_sets import expanded, open_all, open_set
from bertnli.evaluation.evaluate import ComparedModel
from bertnli.fetch import download as download_module
from bertnli.fetch.catalog import CATALOG, SUITES
from bertnli.fetch.entry import Archive, AsItIs, Unpacked
from bertnli.fetch.resolve import fetch
from bertnli.report.summary import notes
from tests.conftest import Run
from tests.support import tiny
from tests.support.http_stand_in import Hosted, StandIn

LABELS = ("entailment", "neutral", "contradiction")
PAIRS = [("A man eats.", "A person eats.", "entailment"), ("A dog runs.", "A cat runs.", "contradiction")]
PAIRS += [("A boy sings.", "A boy sings loudly.", "neutral")]


def snli(rows: Sequence[tuple[str, str, str]], **more: object) -> bytes:
    return b"".join(
        json.dumps(
            {"gold_label": label, "sentence1": premise, "sentence2": hypothesis, "pairID": "1n", **more}
        ).encode()
        + b"\n"
        for premise, hypothesis, label in rows
    )


def anli(rows: Sequence[tuple[str, str, str]]) -> bytes:
    lines = [
        {"uid": "1", "context": p, "hypothesis": h, "label": label[0], "model_label": "e", "reason": "", "tag": "x"}
        for p, h, label in rows
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def tsv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    return "".join("\t".join(row) + "\n" for row in (header, *rows)).encode()


SICK_HEADER = ["pair_ID", "sentence_A", "sentence_B", "entailment_label", "relatedness_score", "entailment_AB"]
SICK_HEADER += ["entailment_BA", "sentence_A_original", "sentence_B_original", "sentence_A_dataset"]
SICK_HEADER += ["sentence_B_dataset", "SemEval_set"]
SICK = tsv(
    SICK_HEADER,
    [
        [str(i), p, h, label.upper(), "4.5", "A_neutral_B", "B_neutral_A", p, h, "FLICKR", "FLICKR", part]
        for part in ("TRAIN", "TEST", "TRIAL")
        for i, (p, h, label) in enumerate(PAIRS)
    ],
)
HANS_HEADER = ["gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse"]
HANS_HEADER += ["sentence1", "sentence2", "pairID", "heuristic", "subcase", "template"]
HEURISTICS = {  # of each two rows, by their subjects
    "lexical_overlap": (("judge", "entailment"), ("actor", "non-entailment")),
    "subsequence": (("judge", "entailment"), ("judge", "entailment")),
    "constituent": (("actor", "non-entailment"), ("actor", "non-entailment")),
}
HANS = tsv(
    HANS_HEADER,
    [
        [gold, "( a b )", "( a b )", "(ROOT)", "(ROOT)", f"The {who} saw it .", "It was seen .", "ex1", one, "s", "t"]
        for one, rows in HEURISTICS.items()
        for who, gold in rows
    ],
)


def lines(rows: Sequence[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


FEVER_LABELS = {"entailment": "SUPPORTS", "neutral": "NOT ENOUGH INFO", "contradiction": "REFUTES"}
FEVER = lines(
    [
        {"cid": str(n), "fid": f"{n}_1", "query": h, "context": p, "label": FEVER_LABELS[label]}
        for n, (p, h, label) in enumerate(PAIRS)
    ]
)
XNLI_HEADER = ["language", "gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse"]
XNLI_HEADER += [
    "sentence2_parse",
    "sentence1",
    "sentence2",
    "promptID",
    "pairID",
    "genre",
    "label1",
    "label2",
    "label3",
]
XNLI_HEADER += ["label4", "label5", "sentence1_tokenized", "sentence2_tokenized", "match"]
XNLI = tsv(
    XNLI_HEADER,
    [
        [one, label, "", "", "", "", p, h, "1", "1", "facetoface", *[label] * 5, p, h, "True"]
        for one in ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
        for p, h, label in PAIRS
    ],
)
XNLI_MT = tsv(["premise", "hypo", "label"], [[p, h, label.replace("tion", "tory")] for p, h, label in PAIRS])
OCNLI = lines(
    [
        {"level": "medium", "sentence1": p, "sentence2": h, "label": label, "label0": label, "genre": "TV", "id": n}
        for n, (p, h, label) in enumerate([*PAIRS, ("外", "经", "-")])
    ]
)
QQP = tsv(
    ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    [["1", "2", "3", 'What is "this', "And that?", "0"], ["4", "5", "6", "Who is it?", "Who is she?", "1"]],
)
STSB = tsv(
    ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"],
    [["0", "main-captions", "MSRvid", "2012test", "1", "none", "none", "A plane.", "An air plane.", "5.000"]],
)
RTE = tsv(
    ["index", "sentence1", "sentence2", "label"],
    [
        ["0", "No weapons were found.", "Weapons were found.", "not_entailment"],
        ["1", "It rains.", "It is wet.", "entailment"],
    ],
)
QNLI = tsv(
    ["index", "question", "sentence", "label"],
    [
        ["0", "When did it start?", "It started in 1950.", "entailment"],
        ["1", "Who won?", "It is late.", "not_entailment"],
    ],
)


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return stream.getvalue()


BODIES = {
    "snli_1.0.zip": zipped({f"snli_1.0/snli_1.0_{split}.jsonl": snli(PAIRS) for split in ("train", "dev", "test")}),
    "snli_1.0_test_hard.jsonl": snli(PAIRS),
    "multinli_1.0.zip": zipped(
        {
            f"multinli_1.0/multinli_1.0_{one}.jsonl": snli(PAIRS, genre="fiction")
            for one in ("train", "dev_matched", "dev_mismatched")
        }
        | {"__MACOSX/multinli_1.0/._multinli_1.0_dev_matched.jsonl": b"junk"}
    ),
    "heuristics_evaluation_set.txt": HANS,
    "breaking_nli_dataset.zip": zipped({"data/dataset.jsonl": snli(PAIRS, category="colors"), "data/README.txt": b""}),
    "SICK.zip": zipped({"SICK.txt": SICK, "readme.txt": b""}),
    "anli_v1.0.zip": zipped(
        {f"anli_v1.0/R{n}/{split}.jsonl": anli(PAIRS) for n in (1, 2, 3) for split in ("train", "dev", "test")}
    ),
    "nli_fever.zip": zipped({"nli_fever/train_fitems.jsonl": FEVER, "nli_fever/dev_fitems.jsonl": b"", "x/._y": b""}),
    "XNLI-1.0.zip": zipped(
        {f"XNLI-1.0/xnli.{split}.{ext}": XNLI for split in ("dev", "test") for ext in ("tsv", "jsonl")}
    ),
    "XNLI-MT-1.0.zip": zipped(
        {
            f"XNLI-MT-1.0/multinli/multinli.train.{one}.tsv": XNLI_MT
            for one in ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
        }
    ),
    "OCNLI-02d55cb.zip": zipped(
        {f"OCNLI-02d55cb3/data/ocnli/{one}.json": OCNLI for one in ("train.50k", "dev", "test")}
    ),
    "cmnli_public.zip": zipped({f"{one}.json": OCNLI for one in ("train", "dev", "test")}),
    "QQP-clean.zip": zipped({f"QQP/{split}.tsv": QQP for split in ("train", "dev")}),
    "STS-B.zip": zipped({f"STS-B/{split}.tsv": STSB for split in ("train", "dev")}),
    "RTE.zip": zipped({f"RTE/{split}.tsv": RTE for split in ("train", "dev")}),
    "QNLIv2.zip": zipped({f"QNLI/{split}.tsv": QNLI for split in ("train", "dev")}),
}
NAMES = [
    name
    for name, entry in CATALOG.items()
    if entry.kind == "dataset" and name != "snli-100k" and entry.language in ("en", "de", "zh", "multilingual")
]
TWO_CLASSES = {  # an export's gate: the place of `entailment`, and -1 for the class that is two labels of the model
    "hans": [0, -1, 0, 0, -1, -1],
    "rte": [-1, 0],
    "rte-dev": [-1, 0],
    "qnli": [0, -1],
    "qnli-dev": [0, -1],
}
CHINESE = ("ocnli", "cmnli")  # with a row without a gold label
OTHER_LABELS = {"qqp", "qqp-dev", "stsb", "stsb-dev"}  # not those of NLI


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Every data set's own entry, but that its archive is a small one on this server, with that one's checksum."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(download_module, "FIRST_PAUSE", 0.001)

    def here(archive: Archive) -> Archive:
        body = BODIES[archive.filename]
        checksum = None if archive.checksum is None else f"sha256:{hashlib.sha256(body).hexdigest()}"
        url = stand_in.url(f"/{archive.filename}")
        return replace(archive, checksum=checksum, size=None, url=url, requirement=None)

    with StandIn() as stand_in:
        for filename, body in BODIES.items():
            stand_in.files[f"/{filename}"] = Hosted(body)
        for name in NAMES:
            entry = CATALOG[name]
            source = entry.sources[0]
            assert isinstance(source, Unpacked | AsItIs)
            moved = replace(
                entry, files=dict.fromkeys(entry.files), sources=(replace(source, archive=here(source.archive)),)
            )
            monkeypatch.setitem(CATALOG, name, moved)
        yield stand_in


class Told:
    """A predictor with fixed logits for a premise; 0 for those it was not told."""

    temperature = 1.0

    def __init__(self, told: dict[str, Sequence[float]], labels: Sequence[str] = LABELS):
        self.labels, self.told = tuple(labels), told
        self.premises: list[str] = []

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        self.premises += premises
        return np.array([self.told.get(premise, [0.0] * len(self.labels)) for premise in premises], np.float32)


RIGHT = {premise: [4.0 * (label == one) for one in LABELS] for premise, _, label in PAIRS}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHER_LABELS])
def test_every_named_set_is_fetched_read_and_measured(server: StandIn, name: str) -> None:
    found = open_set(name).measure(Told(RIGHT))
    columns = dict.fromkeys(["mnli", "mnli-matched", "mnli-mismatched"], "genre") | {"breaking-nli": "category"}
    columns |= {"xnli-dev": "language", "xnli-test": "language", "hans": "heuristic"}
    assert list(found.get("by_column", {})) == ([columns[name]] if name in columns else [])
    if name in TWO_CLASSES:
        assert found["rows"] == len(TWO_CLASSES[name]) and found["labels"][0] == "entailment" and found["classes"]
        return
    rows = 45 if name in ("xnli-dev", "xnli-test") else 3
    assert found["rows"] == rows and found["accuracy"] == 1.0 and found["labels"] == list(LABELS)
    assert found["no_gold_rows"] == name.startswith(CHINESE) and found["bad_rows"] == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHER_LABELS and "xnli" not in name])
def test_an_exports_gate_reads_every_named_set(server: StandIn, name: str) -> None:
    gold = RealRows.read(open_set(name), Outputs(LABELS)).gold.tolist()
    assert gold == [*TWO_CLASSES.get(name, [0, 2, 1]), *[-1] * name.startswith(CHINESE)]


def test_named_sets_of_other_kinds_are_read(server: StandIn) -> None:
    for name in ("qqp", "qqp-dev"):
        found = open_set(name).measure(Told({'What is "this': [0.0, 1.0]}, labels=("duplicate", "not_duplicate")))
        assert found["confusion"] == [[1, 0], [0, 1]]
    for name in ("stsb", "stsb-dev"):
        chosen = open_set(name, problem_type="regression")
        [row] = read_labelled(chosen.file, ("score",), problem_type="regression")
        assert (row.premise, row.label) == ("A plane.", (5.0,))


@pytest.mark.parametrize("name", ["sick-test", "anli-r1-test", "hans"])
def test_a_bundle_is_verified_on_a_named_set(server: StandIn, name: str) -> None:
    expected = open_set(name).measure(Scorer(tiny.bundle(), "cpu"))
    found = verify(tiny.bundle(), name, device="cpu")
    assert (found["rows"], found["accuracy"]) == (expected["rows"], expected["accuracy"])


def test_a_temperature_is_fitted_on_a_named_set_for_another(server: StandIn) -> None:
    """ANLI's labels are e, n and c; HANS has two classes, and its labels are none of the model's three."""
    wrong_once = RIGHT | {"A dog runs.": [0.0, 4.0, 0.0]}
    fitted = calibrate(Told(wrong_once), open_set("anli-r1-test"), apart_from=open_set("hans"))
    assert fitted.rows == 3 and fitted.loss < fitted.loss_without
    with pytest.raises(InputError, match="non-entailment"):
        calibrate(Told(wrong_once), open_set("hans"), apart_from=open_set("anli-r1-test"))


def test_a_part_of_sick_is_that_part_alone(server: StandIn) -> None:
    rows = list(csv.DictReader(fetch("sick-test").open(), delimiter="\t"))
    assert [row["SemEval_set"] for row in rows] == ["TEST"] * 3 and len(rows[0]) == 12


def test_a_receipt_has_licence_and_source(server: StandIn) -> None:
    receipt = json.loads((fetch("anli-r3-test").parent / "receipt.json").read_text())
    assert receipt["licence"] == "CC BY-NC 4.0" and receipt["source"] == server.url("/anli_v1.0.zip")


# Fewer classes


def hans_model(labels: Sequence[str]) -> Told:
    """The judge: 0.45 entailment, 0.3, 0.25; so entailment by itself, non-entailment once the two are added."""
    shares = dict(zip(LABELS, (0.45, 0.3, 0.25), strict=True))
    judge = [np.log(shares[label]) for label in labels]
    return Told(
        {"The judge saw it .": judge, "The actor saw it .": [3.0 * (one != "entailment") for one in labels]}, labels
    )


@pytest.mark.parametrize("order", [LABELS, ("contradiction", "entailment", "neutral")])
def test_probabilities_of_merged_labels_are_added(server: StandIn, order: Sequence[str]) -> None:
    found = open_set("hans").measure(hans_model(order))
    assert sorted(found["labels"]) == ["entailment", "non-entailment"]
    assert set(found["classes"]["non-entailment"]) == {"neutral", "contradiction"}
    assert found["accuracy"] == 0.5  # the judge's three are wrong: 0.45 is less than 0.55
    judged = [one for one in found["examples"]["wrong"] if one["premise"] == "The judge saw it ."]
    assert judged[0]["probabilities"]["non-entailment"] == pytest.approx(0.55)
    assert found["loss"] == pytest.approx((-np.log(0.45) - np.log(2 / (2 + np.exp(-3)))) / 2, rel=1e-6)


def test_hans_is_told_by_heuristic(server: StandIn) -> None:
    found = open_set("hans").measure(hans_model(LABELS))
    table = found["by_column"]["heuristic"]
    assert list(table) == list(HEURISTICS)
    assert [(one["rows"], one["accuracy"]) for one in table.values()] == [(2, 0.5), (2, 0.0), (2, 1.0)]
    assert table["lexical_overlap"]["recall"] == {"entailment": 0.0, "non-entailment": 1.0}
    assert table["constituent"]["recall"] == {"non-entailment": 1.0}
    assert any("heuristic lexical_overlap: 0.5000 on 2 rows" in line for line in notes(found))
    assert "non-entailment: the sum of the probabilities of neutral and contradiction" in notes(found)


def test_the_models_temperature_comes_before_the_adding(server: StandIn) -> None:
    model = hans_model(LABELS)
    model.temperature = 2.0
    found = open_set("hans").measure(model)
    judged = [one for one in found["examples"]["wrong"] if one["premise"] == "The judge saw it ."]
    shares = np.sqrt([0.45, 0.3, 0.25])
    assert judged[0]["probabilities"]["entailment"] == pytest.approx(shares[0] / shares.sum())
    assert found["temperature"] == 1  # for the classes: it is in their probabilities


def test_the_other_models_labels_are_merged_too(server: StandIn) -> None:
    set_, two = open_set("hans"), ("entailment", "non-entailment")
    other = Told({"The judge saw it .": [1.0, 0.0], "The actor saw it .": [0.0, 1.0]}, two)
    for rivals in ((hans_model(LABELS), other), (other, hans_model(("contradiction", "neutral", "entailment")))):
        here, there = rivals
        found = set_.measure(here, against=ComparedModel("other", there, open_set("hans").file))
        accuracies = {id(other): 1.0}
        assert found["accuracy"] == accuracies.get(id(here), 0.5)
        assert found["against"]["accuracy"] == accuracies.get(id(there), 0.5)
        assert found["against"]["changed"] == 3


def test_a_model_of_the_two_classes_is_taken_as_it_is(server: StandIn) -> None:
    two = ("non-entailment", "entailment")
    found = open_set("hans").measure(Told({"The judge saw it .": [0.0, 1.0], "The actor saw it .": [1.0, 0.0]}, two))
    assert found["accuracy"] == 1.0 and found["labels"] == list(two) and "classes" not in found
    other = ("not_entailment", "entailment")
    renamed = open_set("hans").measure(
        Told({"The judge saw it .": [0.0, 1.0], "The actor saw it .": [1.0, 0.0]}, other)
    )
    assert renamed["accuracy"] == 1.0 and renamed["labels"] == ["non-entailment", "entailment"]


def test_labels_that_belong_to_no_class_are_named(server: StandIn) -> None:
    with pytest.raises(
        InputError, match=r"hans: the model's labels.*found yes, no; expected for entailment: entailment; for non-"
    ):
        open_set("hans").measure(Told({}, ("yes", "no")))
    with pytest.raises(InputError, match="found neutral, contradiction"):
        open_set("hans").measure(Told({}, ("neutral", "contradiction")))


def test_hans_without_its_column_is_not_hans(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = CATALOG["snli-dev"]
    schema = replace(entry.schema, slices=("heuristic",))
    monkeypatch.setitem(CATALOG, "snli-dev", replace(entry, schema=schema))
    with pytest.raises(InputError, match="no column 'heuristic'"):
        open_set("snli-dev").measure(Told(RIGHT))


# Several


def test_the_list_shows_the_suite(command: Run) -> None:
    listed = command("fetch", "--list").stdout
    names = [CATALOG[name].listed_as or name for name in NAMES]
    assert all(name in listed for name in names) and any(line.startswith("nli-suite ") for line in listed.splitlines())
    shown = json.loads(command("fetch", "--list", "--json").stdout)
    assert shown["suites"]["nli-suite"] == list(SUITES["nli-suite"])
    assert {*names} <= {one["name"] for one in shown["names"]} and all(one["licence"] for one in shown["names"])
    assert "omit those" in command("fetch", "minilm", "--list").stderr


def test_a_suite_stands_for_its_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = list(SUITES["nli-suite"])
    assert expanded(["hans", "nli-suite", "my.tsv"]) == ["hans", *(one for one in members if one != "hans"), "my.tsv"]
    monkeypatch.chdir(tmp_path)
    Path("nli-suite").write_text("a file of that name goes before the suite")
    assert expanded(["nli-suite"]) == ["nli-suite"]


def test_what_cannot_be_fetched_is_skipped_among_several_only(server: StandIn) -> None:
    server.files["/SICK.zip"].always = 404
    sets, skipped = open_all(["snli-dev", "sick-test"], open_set)
    assert [one.name for one in sets] == ["snli-dev"]
    assert skipped == {"sick-test": f"{server.url('/SICK.zip')}: HTTP 404 Not Found"}
    with pytest.raises(RunError, match="HTTP 404"):
        open_all(["sick-test"], open_set)
    with pytest.raises(RunError, match=r"none of the data sets could be fetched: sick-test: .*; sick-trial: "):
        open_all(["sick-test", "sick-trial"], open_set)
    with pytest.raises(InputError, match="perhaps hans"):
        open_all(["snli-dev", "hasn"], open_set)


# The command


@pytest.fixture
def evaluated(server: StandIn, tmp_path: Path, command: Run) -> Callable[..., str]:
    """`bertnli eval` on a tiny model, with the test's catalogue."""
    tiny.hf_folder(tmp_path / "model")

    def run(*arguments: str) -> str:
        done = command("eval", "model", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_eval_of_several_names_what_it_skipped(server: StandIn, evaluated: Callable[..., str]) -> None:
    server.files["/SICK.zip"].always = 404
    said = evaluated("nli-suite", "--report", "report", "--json").splitlines()
    found = json.loads(said[-1])
    assert set(found["evaluations"]) == set(SUITES["nli-suite"]) - {"sick-test"}
    assert list(found["skipped"]) == ["sick-test"] and "HTTP 404" in found["skipped"]["sick-test"]
    assert found["evaluations"]["hans"]["rows"] == 6 and "accuracy" not in found
    assert any(line.startswith("sick-test: skipped") and "HTTP 404" in line for line in said)
    assert json.loads(Path("report/evaluation.json").read_text()) == found
    page = Path("report/report.html").read_text()
    assert "Skipped: sick-test" in page and "HTTP 404" in page and "Accuracy on hans" in page


@pytest.mark.parametrize("option", ["--calibrate", "--against"])
def test_one_set_at_a_time_for_what_is_about_one(server: StandIn, command: Run, option: str) -> None:
    tiny.hf_folder(Path("model"))
    done = command("eval", "model", "snli-dev", "hans", option, "model")
    assert done.returncode == 2 and f"{option}; found 2 data sets; expected one" in done.stderr


def test_eval_of_one_keeps_its_form(evaluated: Callable[..., str]) -> None:
    found = json.loads(evaluated("snli-dev", "--json").splitlines()[-1])
    assert found["rows"] == 3 and "accuracy" in found and "evaluations" not in found
    assert not {"premises", "classes", "by_column"} & found.keys()


@pytest.mark.parametrize(
    ("labels", "label_names"),
    [
        (("entailment", "not_entailment"), {}),
        (("Entailment", "non-entailment"), {}),
        (("0", "1"), {"0": "entailment", "1": "not_entailment"}),
        (("yes", "not entailment"), {"yes": "entailment"}),
    ],
)
def test_a_file_with_two_classes_is_measured_by_two(
    tmp_path: Path, labels: tuple[str, str], label_names: dict[str, str]
) -> None:
    """As RTE and QNLI are, for a model with three labels: not_entailment is neutral or contradiction."""
    subjects = ("actor", "judge", "actor")
    lines = [f"The {who} saw it .\tIt was seen .\t{labels[who == 'actor']}\n" for who in subjects]
    (tmp_path / "rte.tsv").write_text("premise\thypothesis\tlabel\n" + "".join(lines))
    given = open_set(str(tmp_path / "rte.tsv"), label_names=label_names)
    for order in (LABELS, ("contradiction", "entailment", "neutral")):
        found = given.measure(hans_model(order), against=ComparedModel("other", hans_model(LABELS), given.file))
        given.check(hans_model(order))
        assert found["rows"] == 3 and found["accuracy"] == pytest.approx(2 / 3) == found["against"]["accuracy"]
        [other] = [name for name in found["labels"] if name.casefold() != "entailment"]
        assert f"{other}: the sum of the probabilities of " in "".join(notes(found))


@pytest.mark.parametrize(
    "labels", [("entailment", "unrelated"), ("neutral", "not_entailment"), ("entailment", "neutral", "not_entailment")]
)
def test_other_classes_are_not_guessed(tmp_path: Path, labels: Sequence[str]) -> None:
    lines = [f"The actor saw it .\tIt was seen .\t{label}\n" for label in labels]
    (tmp_path / "a.tsv").write_text("premise\thypothesis\tlabel\n" + "".join(lines))
    model = hans_model(LABELS)
    for act in (open_set(str(tmp_path / "a.tsv")).measure, open_set(str(tmp_path / "a.tsv")).check):
        with pytest.raises(InputError, match="labels that the model does not know"):
            act(model)
