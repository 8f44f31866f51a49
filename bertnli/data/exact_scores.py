"""Scores of a Unigram vocabulary, so that every program reads the same numbers from its tokenizer.json.

The tokenizers library reads a decimal number as its digits divided by a power of ten, both as floats. That can miss the
last bit. Two ways to split a text may have nearly the same score, so a last bit can change ids. Therefore each score is
written with digits that are a float themselves.
"""

from __future__ import annotations

import math
import re

_SCORE = re.compile(r"(?m)^( +)(-?)(\d+\.\d+(?:e-?\d+)?)$")  # a real number alone on a line: only scores are
_LARGEST = 2.0**63  # of the digits, as a whole number
_POWERS = [10.0**power for power in range(23)]  # those that are exact


def rewrite(text: str) -> str:
    """The text of a tokenizer.json, indented, with other digits for the same scores."""
    return _SCORE.sub(lambda found: f"{found[1]}{found[2]}{_digits(float(found[3])) or found[3]}", text)


def writable(score: float) -> float:
    """`score`, or for one in some hundreds that cannot be written so, the next float that can."""
    value = abs(score)
    for near in (value, math.nextafter(value, 0), math.nextafter(value, math.inf)):
        if near == 0 or _digits(near) is not None:
            return math.copysign(near, score)
    return score


def _digits(value: float) -> str | None:
    """The number as it is written; None if there is no way."""
    text = repr(value)
    if "e" not in text and len(text) <= 16:  # 15 digits are exact in a float
        return text
    for power in range(len(_POWERS) - 1, 0, -1):
        near = value * _POWERS[power]
        if near < _LARGEST:
            for digits in (float(round(near)), math.nextafter(near, 0), math.nextafter(near, math.inf)):
                if digits.is_integer() and digits / _POWERS[power] == value:
                    return f"{int(digits)}e-{power}"
    return None
