"""exact_scores: the library reads from tokenizer.json the very scores that were written."""

from __future__ import annotations

import json
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from bertnli.data import exact_scores


def scores_of(text: str) -> list[float]:
    return [score for _, score in json.loads(text)["model"]["vocab"]]


@given(st.lists(st.just(0.0) | st.floats(-20, -0.001) | st.floats(-20, -0.25, width=32), min_size=1, max_size=50))
def test_what_is_written_is_read(scores: list[float]) -> None:
    kept = [0.0, *map(exact_scores.writable, scores)]
    made = Tokenizer(models.Unigram([(f"t{at}", score) for at, score in enumerate(kept)], unk_id=0))
    text = exact_scores.rewrite(made.to_str(pretty=True))
    assert scores_of(text) == kept  # by Python, as transformers reads it
    assert scores_of(Tokenizer.from_str(text).to_str()) == kept
    assert all(abs(a - b) <= math.ulp(b) for a, b in zip(kept[1:], scores, strict=True))


def test_most_scores_stay_as_they_are() -> None:
    scores = (-15 * np.random.default_rng(0).random(2000, np.float32)).astype(float).tolist()
    assert sum(exact_scores.writable(score) != score for score in scores) < 20
