"""Pairs of texts in many scripts, with everything that tokenizers treat in a way of their own."""

from __future__ import annotations

import random

_RANGES = {
    "latin": [(0x61, 0x7A), (0x41, 0x5A), (0xC0, 0x24F)],
    "cyrillic": [(0x400, 0x45F)],
    "greek": [(0x391, 0x3C9)],
    "arabic": [(0x621, 0x652)],
    "hebrew": [(0x5D0, 0x5EA), (0x5B0, 0x5BD)],
    "devanagari": [(0x905, 0x94D)],
    "thai": [(0xE01, 0xE3A), (0xE40, 0xE4E)],
    "cjk": [(0x4E00, 0x4E60), (0x3041, 0x3096), (0x30A1, 0x30FA), (0xFF01, 0xFF9F)],
    "hangul": [(0xAC00, 0xAC80), (0x1100, 0x1112), (0x1161, 0x1175)],
    "emoji": [(0x1F600, 0x1F64F), (0x1F3FB, 0x1F3FF), (0x200D, 0x200D), (0xFE0F, 0xFE0F)],
    "letter-like": [(0x2100, 0x214F), (0xFB00, 0xFB06), (0x1D400, 0x1D433), (0x2150, 0x2189)],
}
_COMBINING = [chr(code) for code in (*range(0x300, 0x310), 0x327, 0x345, 0x5BC, 0x64B, 0x93C, 0x3099, 0x20DD)]
_CONTROL = [
    "\x00",
    "\x07",
    "\x1b",
    "\x7f",
    "\x85",
    "\u200b",
    "\u200e",
    "\u2060",
    "\ufeff",
    "\ufffd",
    "\u00ad",
    "\U000e0001",
]
_BLANKS = [" ", " ", " ", " ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u2028", "\u3000", "\u1680"]
_MARKS = [
    *".,;:!?'\"()-/…“”‘’«»—–@#&%$€*_~`^|\\{}[]<>=+",
    "...",
    "``",
    "''",
    "1,",
    "12,",
    "1,000",
    "3.5",
    "▁",
    "▁▁",
    "##a",
]
_WORDS = [
    "the",
    "The",
    "A",
    "man",
    "woman",
    "is",
    "playing",
    "people",
    "outside",
    "don't",
    "it's",
    "O'Neil",
    "U.S.",
    "Naïve",
]
_SPECIAL = [
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[PAD]",
    "[UNK]",
    "<s>",
    "</s>",
    "<mask>",
    "<pad>",
    "<unk>",
    "[sep]",
    "<S>",
    "NEW",
]


def pairs(number: int, seed: int = 0, special: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """`number` pairs, the same for a seed. special: more tokens to put into texts."""
    source = random.Random(seed)
    return [(_text(source, special), _text(source, special)) for _ in range(number)]


def _text(source: random.Random, special: tuple[str, ...]) -> str:
    if source.random() < 0.02:
        return source.choice(["", " ", "\n", "▁", "\u200b", "."])
    script = source.choice([*_RANGES, "latin", "words", "mixed"])
    parts = []
    for _ in range(source.choice([1, 2, 3, 5, 8, 13, 30])):
        parts.append(_word(source, source.choice([*_RANGES, "words"]) if script == "mixed" else script, special))
        parts.append(source.choice(_BLANKS) if source.random() < 0.85 else "")
    return "".join(parts if source.random() < 0.3 else parts[:-1])


def _word(source: random.Random, script: str, special: tuple[str, ...]) -> str:
    chance = source.random()
    if chance < 0.05:
        return source.choice([*_SPECIAL, *special])
    if chance < 0.15:
        return source.choice(_MARKS)
    if chance < 0.17:
        return source.choice(_CONTROL)
    if script == "words":
        word = source.choice(_WORDS)
        return word + source.choice(["", "", "", ".", ",", "s"])
    length = 150 if chance > 0.995 else source.randint(1, 9)
    letters = []
    for _ in range(length):
        first, last = source.choice(_RANGES[script])
        letters.append(chr(source.randint(first, last)))
        if source.random() < 0.06:
            letters.append(source.choice(_COMBINING))
    return "".join(letters)
