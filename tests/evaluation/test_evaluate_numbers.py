"""Evaluation of models that give a score or independent labels: equal to scikit-learn; the meaningless is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bertnli.commands.eval import NamedModel, evaluation
from bertnli.common.errors import InputError, RunError
from bertnli.data.outputs import Activation, Outputs
from bertnli.evaluation.calibrate import calibrate
from bertnli.evaluation.data_sets import open_set
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from tests.evaluation.test_evaluate import Reader
from tests.support import tiny

TOPICS = ("toxic", "insult", "threat")


class Numbers:
    """A predictor that reads its logits from the hypothesis: `0.5 -1`."""

    temperature = 1.0
    tokenizer = SimpleNamespace(settings=SimpleNamespace(reads_parse=False, hypothesis_only=False))

    def __init__(self, outputs: Outputs):
        self.outputs, self.labels = outputs, outputs.names
        self.calls = 0

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        self.calls += 1
        return np.array([[float(part) for part in one.split()] for one in hypotheses], np.float32)


def scorer(activation: Activation = "identity") -> Any:
    return Numbers(Outputs(("score",), "regression", activation))


def topics() -> Any:
    return Numbers(Outputs(TOPICS, "multi_label_classification", "sigmoid"))


def write(path: Path, rows: Sequence[tuple[Any, Sequence[float]]], **more: Sequence[Any]) -> str:
    """JSON lines; a row is its gold label and its logits. more: other columns."""
    lines = [
        {
            "premise": f"p {n}",
            "hypothesis": " ".join(map(str, logits)),
            "label": gold,
            **{k: v[n] for k, v in more.items()},
        }
        for n, (gold, logits) in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def drawn(rows: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Gold scores, labels of 0 and 1, and logits with ties that know something of both."""
    draw = np.random.default_rng(seed)
    gold = draw.normal(size=rows).round(1)
    logits = (gold + draw.normal(size=rows)).round(1)
    return gold, (gold > 0.3).astype(int), logits


def sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float32).astype(float)))


def test_a_column_of_similarities_is_the_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"text1": "a", "text2": f"{n}", "similarity": n, "is_duplicate": "no"} for n in range(5)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert evaluation("m", scorer(), [str(tmp_path / "a.jsonl")])["pearson"] == pytest.approx(1)
    assert "column 'similarity' is the label" in "".join(capsys.readouterr())


def test_scores_against_real_numbers(tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    gold, _, logits = drawn(5000)  # more than a batch
    data = write(tmp_path / "a.jsonl", [(g, [x]) for g, x in zip(gold.tolist(), logits.tolist(), strict=True)])
    found = open_set(data).measure(scorer())
    assert found["rows"] == 5000 and "accuracy" not in found and "average_precision" not in found
    assert found["pearson"] == pytest.approx(stats.pearsonr(gold, logits).statistic, abs=1e-6)
    assert found["spearman"] == pytest.approx(stats.spearmanr(gold, logits).statistic, abs=1e-9)
    assert found["mse"] == pytest.approx(((gold - logits) ** 2).mean(), rel=1e-6)
    apart = np.abs(gold - logits)
    assert min(apart[one["row"] - 1] for one in found["furthest"]) >= np.sort(apart)[-10] - 1e-6
    beyond = open_set(data).measure(scorer("sigmoid"))  # the sigmoid's scores are not on the scale of the gold ones
    assert beyond["mse"] is beyond["mae"] is beyond["log_loss"] is None and beyond["furthest"] == []
    assert beyond["spearman"] == pytest.approx(found["spearman"])
    assert beyond["pearson"] == pytest.approx(stats.pearsonr(gold, sigmoid(logits)).statistic, abs=1e-6)


def test_scores_against_labels_of_0_and_1_and_within_groups(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    _, labels, logits = drawn(600)
    logits = logits + np.arange(600) * 1e-3  # no ties, which sentence-transformers ranks by chance
    group = [n % 60 for n in range(600)]  # 0 is a group's name too
    labels[::60] = 0  # all of group 0
    data = write(tmp_path / "a.jsonl", [(int(g), [x]) for g, x in zip(labels, logits, strict=True)], query=group)
    found = open_set(data).measure(scorer("sigmoid"), group="Query")
    scores = sigmoid(logits)
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(labels, scores))
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(labels, scores), rel=1e-6)
    assert found["positive_rows"] == labels.sum()
    reranking = pytest.importorskip("sentence_transformers.cross_encoder.evaluation").CrossEncoderRerankingEvaluator
    samples = [
        {
            "query": f"q{name}",
            "positive": [str(logits[n]) for n in range(name, 600, 60) if labels[n]],
            "negative": [str(logits[n]) for n in range(name, 600, 60) if not labels[n]],
        }
        for name in range(60)
    ]
    model = SimpleNamespace(
        predict=lambda pairs, **_: np.array([float(text) for _, text in pairs]), model_card_data=None
    )
    judge = reranking(samples, at_k=10, write_csv=False)
    judge.store_metrics_in_model_card_data = lambda *_: None
    theirs = judge(model)
    ours = found["ranking"]
    assert (ours["group"], ours["groups"]) == ("query", 60) and ours["without_relevant"] >= 1
    for ours_key, key in (("mrr_at_10", "mrr@10"), ("ndcg_at_10", "ndcg@10"), ("map", "map")):
        assert ours[ours_key] == pytest.approx(theirs[key]), key


def test_independent_labels(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    gold = draw.random((500, 3)) < [0.5, 0.2, 0.05]
    logits = (2 * gold - 1.2 + draw.normal(size=gold.shape)).round(1) + 0.01  # no probability is 0.5
    names = [[name for name, has in zip(TOPICS, row, strict=True) if has] for row in gold]
    found = open_set(write(tmp_path / "a.jsonl", list(zip(names, logits.tolist(), strict=True)))).measure(topics())
    predicted, scores = logits > 0, sigmoid(logits)
    for average in ("micro", "macro"):
        assert found[f"{average}_f1"] == pytest.approx(metrics.f1_score(gold, predicted, average=average))
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(gold, scores))
    assert found["micro_average_precision"] == pytest.approx(
        metrics.average_precision_score(gold, scores, average="micro")
    )
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(gold, scores))
    assert found["exact_match"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    precision, recall, f1, rows = metrics.precision_recall_fscore_support(gold, predicted)
    for place, name in enumerate(TOPICS):
        one = found["per_label"][name]
        assert (one["precision"], one["recall"], one["f1"], one["rows"]) == (
            *(pytest.approx(figure[place]) for figure in (precision, recall, f1)),
            rows[place],
        )
    assert set(found["furthest"][0]) == {"row", "premise", "hypothesis", "gold", "predicted", "probabilities"}


@pytest.mark.parametrize(
    ("model", "rows", "options", "message"),
    [
        (scorer(), [("entailment", [1])], {}, "1 bad row of 1; found row 1: the score is 'entailment'"),
        (scorer(), [(1, [1])], {"group": "topic"}, "no column 'topic'; found 'premise', .*--group"),
        (scorer(), [(1, [1]), (0, [1])], {"group": "query"}, "row 2: no value in column 'query'"),
        (topics(), [("toxic", [1, 1, 1])], {"group": "query"}, "--group query; found a model of labels"),
        (Reader(), [("neutral", [0])], {"group": "query"}, "--group query; found a model of labels"),
        (scorer(), [(1, [1])], {"against": NamedModel("other", scorer())}, "--against other.*compared by their"),
        (scorer(), [(1, [1]), (0, [1])], {"calibrate": True}, "--calibrate .*scores are not probabilities"),
        (
            scorer("sigmoid"),
            [(1, [1]), (3, [1])],
            {"calibrate": True},
            "gold scores from 1 to 3; expected between 0 and 1",
        ),
    ],
)
def test_what_means_nothing_is_refused_before_the_work(
    tmp_path: Path, model: Any, rows: Any, options: Any, message: str
) -> None:
    if "calibrate" in options:
        options = {"calibrate": write(tmp_path / "held.jsonl", rows, query=["q", None])}
    if isinstance(model, Reader):
        model.tokenizer = Numbers.tokenizer  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=message):
        evaluation("m", model, [write(tmp_path / "a.jsonl", rows, query=["q", None])], **options)
    assert not model.calls or rows[-1][0] == 3  # gold scores of another range are found among the scored rows


def test_every_set_has_the_group_before_one_is_scored(tmp_path: Path) -> None:
    model, rows = scorer(), [(1, [1]), (0, [0])]
    sets = [write(tmp_path / "a.jsonl", rows, query=["q", "q"]), write(tmp_path / "b.jsonl", rows, query=["q", ""])]
    with pytest.raises(InputError, match=r"b\.jsonl: row 2: no value in column 'query'"):
        evaluation("m", model, sets, group="query")
    assert model.calls == 0


def test_a_score_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="row 2: the model's scores are not finite numbers"):
        open_set(write(tmp_path / "a.jsonl", [(0, [1]), (1, ["nan"])])).measure(scorer())


def test_a_temperature_fits_the_probabilities_of_a_sigmoid(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    logits = draw.normal(size=4000)
    rows = [(int(draw.random() < sigmoid(x)), [3 * x]) for x in logits]  # three times too sure
    held, test = (open_set(write(tmp_path / f"{n}.jsonl", rows)) for n in "ab")
    fitted = calibrate(scorer("sigmoid"), held, apart_from=test)
    assert fitted.temperature == pytest.approx(3, rel=0.1) and fitted.loss < fitted.loss_without
    sets = [([name for name in TOPICS if draw.random() < sigmoid(x)], [2 * x] * 3) for x in logits]
    held, test = (open_set(write(tmp_path / f"{n}.jsonl", sets)) for n in "cd")
    assert calibrate(topics(), held, apart_from=test).temperature == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("kind", ["real", "binary", "sets", "graded"])
def test_the_results_are_printed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    gold, labels, logits = drawn(40)
    query = [n % 4 for n in range(40)]
    if kind == "sets":
        model, rows = topics(), [([TOPICS[n % 2]] * (n % 3 > 0), [x, -x, x]) for n, x in enumerate(logits)]
    else:
        target = {"real": gold, "binary": labels, "graded": abs(gold)}[kind].tolist()
        model, rows = scorer("sigmoid"), [(g, [x]) for g, x in zip(target, logits.tolist(), strict=True)]
    group = None if kind == "sets" else "query"
    data = write(tmp_path / "a.jsonl", rows, query=query)
    found = evaluation("m", model, [data], group=group, report=tmp_path / "report", shuffle_premises=True)
    out = capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text()
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text()) == json.loads(json.dumps(found))
    expected = {
        "real": ["Spearman's rank correlation: ", "the gold scores are from -", "no MRR"],
        "binary": [
            "average precision: ",
            "of them with the label 1",
            "MRR@10: ",
            "nDCG@10: ",
            "4 groups of column 'query'",
        ],
        "sets": ["average precision: ", "micro F1: ", "  toxic: precision "],
        "graded": ["nDCG@10: ", "no MRR"],
    }[kind]
    for part in expected:
        assert part in out, part
    assert "come" in out and "from the hypotheses alone" in out
    assert "Furthest from the gold labels" in page or kind in ("real", "graded")
    assert "Confusion" not in page and "accuracy" not in out.casefold()


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid"])
def test_a_model_has_the_figures_that_cross_encoder_gives_it(tmp_path: Path, activation: str) -> None:
    cross_encoder = pytest.importorskip("sentence_transformers.cross_encoder")
    judge = pytest.importorskip("sentence_transformers.cross_encoder.evaluation").CrossEncoderCorrelationEvaluator
    path = {"Identity": "linear.Identity", "Sigmoid": "activation.Sigmoid"}[activation]
    config = {"sentence_transformers": {"activation_fn": f"torch.nn.modules.{path}"}}
    folder = tiny.hf_folder(tmp_path / "model", labels=("LABEL_0",), max_length=None, config=config)
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(60)]
    gold = drawn(60)[0].tolist()
    rows = [{"premise": a, "hypothesis": b, "label": score} for (a, b), score in zip(pairs, gold, strict=True)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = pretrained.load(folder)
    found = open_set(str(tmp_path / "a.jsonl")).measure(TorchPredictor(source.build(), source.tokenizer, "cpu"))
    theirs = judge(pairs, gold, write_csv=False)(cross_encoder.CrossEncoder(str(folder), device="cpu"))
    assert (found["pearson"], found["spearman"]) == pytest.approx((theirs["pearson"], theirs["spearman"]), abs=1e-5)
