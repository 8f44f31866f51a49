"""`Scorer`: a pair's score is its own, alone or in any batch."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
from bertnli_export.scorer import Scorer, length_batches
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from tests.support import tiny
from tests.support.scored_files import CHUNK

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(tiny.bundle(), "cpu")


def test_scores_are_the_same_alone_in_any_batch_and_in_any_order(scorer) -> None:
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(150)]
    pairs += [("", "a"), ("a", ""), ("x" * 5000, "y")]
    together = np.array([list(one.probabilities.values()) for one in scorer.score(pairs)])
    assert len(set(together.argmax(axis=1))) > 1
    order = random.Random(0).sample(range(len(pairs)), len(pairs))
    shuffled = scorer.score(pairs[index] for index in order)
    for index, one in zip(order, shuffled, strict=True):
        np.testing.assert_allclose(list(one.probabilities.values()), together[index], atol=1e-5)
    for index in range(0, len(pairs), 5):
        [alone] = scorer.score([pairs[index]])
        np.testing.assert_allclose(list(alone.probabilities.values()), together[index], atol=1e-5)
        assert alone.label == scorer.labels[together[index].argmax()]


def test_iter_is_score_as_a_stream(scorer) -> None:
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(CHUNK + 3)]
    taken = 0

    def source():
        nonlocal taken
        for pair in pairs:
            taken += 1
            yield pair

    stream = scorer.iter(source())
    first = next(stream)
    assert taken == CHUNK
    assert [first, *stream] == scorer.score(pairs)


def test_the_scorer_says_what_is_no_pair(scorer) -> None:
    assert scorer.score([]) == []
    for bad in [("a",), "ab", ("a", "b", "c"), 5, {"premise": "a", "hypothesis": "b"}, {"a", "b"}, b"ab"]:
        with pytest.raises(InputError, match="expected a premise and a hypothesis"):
            scorer.score([("a", "b"), bad])
    for bad in ("ab", {"premise": ["a"], "hypothesis": ["b"]}):
        with pytest.raises(InputError, match=r"what to score; found .*; expected a list of pairs"):
            scorer.score(bad)
    with pytest.raises(InputError, match="expected text"):
        scorer.score([("a", None)])
    with pytest.raises(InputError, match="surrogate"):
        scorer.score([("a", "\ud800")])


@given(st.lists(st.integers(3, 512), max_size=200), st.integers(1, 40), st.integers(1, 2000))
def test_batches_hold_every_pair_once_and_keep_to_the_limits(lengths, max_pairs, max_tokens) -> None:
    found = list(length_batches(np.array(lengths, np.int32), max_pairs, max_tokens, 64))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        inside = [lengths[index] for index in batch]
        assert len(batch) <= max_pairs
        assert len(batch) == 1 or len(batch) * max(inside) <= max_tokens
        assert max(inside) - min(inside) <= 64


def test_a_long_pair_makes_no_other_long() -> None:
    lengths = np.array([30] * 31 + [512], np.int32)
    assert [len(batch) for batch in length_batches(lengths, 32, 100_000, 64)] == [1, 31]


def test_a_temperature_changes_the_probabilities_and_no_label(tmp_path, scorer) -> None:
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(60)]
    plain = scorer.score(pairs)
    logits = scorer.logits(*zip(*pairs, strict=True)).astype(np.float64)
    for temperature in (0.25, 3.0, 1e6):
        found = Scorer(tiny.bundle(), "cpu", temperature).score(pairs)
        assert [one.label for one in found] == [one.label for one in plain]
        powers = np.exp(logits / temperature)
        expected = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose([list(one.probabilities.values()) for one in found], expected, atol=1e-6)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=f"--temperature; found {wrong}; expected a number above 0"):
            Scorer(tiny.bundle(), "cpu", wrong)

    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest.pop("temperature") == 1.0  # written, and its absence in older bundles means the same
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert Scorer(bundle, "cpu").score(pairs) == plain
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"temperature": 3.0}))
    assert Scorer(bundle, "cpu").score(pairs) == Scorer(tiny.bundle(), "cpu", 3.0).score(pairs)
    assert Scorer(bundle, "cpu", 1).score(pairs) == plain


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads, scorer) -> None:
    """Therefore a run may be resumed with another number of threads."""
    pairs = [(row["sentence1"], row["sentence2"] + " a dog" * (at % 9)) for at, row in enumerate(tiny.snli_rows(300))]
    one, many = (Scorer(tiny.bundle(), "cpu", threads=number) for number in (1, threads))
    np.testing.assert_array_equal(one.logits(*zip(*pairs, strict=True)), many.logits(*zip(*pairs, strict=True)))
