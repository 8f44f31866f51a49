"""Rows whose pair is too long, and that truncation only_first or only_second cannot shorten: they become bad rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from bertnli.data.pair_rows import Row
from bertnli.data.tokenizer import PairTokenizer

_CHUNK = 1024


def marked(rows: Iterator[Row], tokenizer: PairTokenizer | None) -> Iterator[Row]:
    """The rows, those with an error that the tokenizer cannot cut as its settings say."""
    if tokenizer is None or not tokenizer.may_refuse:
        yield from rows
        return
    while chunk := list(islice(rows, _CHUNK)):
        good = [index for index, row in enumerate(chunk) if row.error is None]
        premises = [str(chunk[index].premise) for index in good]
        hypotheses = [str(chunk[index].hypothesis) for index in good]
        for unfit in tokenizer.encode(premises, hypotheses).unfit.tolist():
            chunk[good[unfit]] = chunk[good[unfit]]._replace(error=tokenizer.refusal)
        yield from chunk
