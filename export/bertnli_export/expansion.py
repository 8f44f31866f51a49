"""An input row that becomes several pairs, whose outputs become one row of scores again.

| expansion | the pairs of a row | its scores |
| --- | --- | --- |
| `window_scores.Windows` | each window of a long premise with the hypothesis | the maximum or the mean of the windows |
| `zero_shot.ZeroShot` | a text with the hypothesis of each candidate label | a probability of each candidate label |

Without an expansion a row is a pair. With one, everything else is the same: a row has one output row, in its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertnli.data.encoded import Encoded
from bertnli.data.outputs import Outputs
from bertnli_export.score_columns import ScoreColumns
from bertnli_export.scorer import CHUNK, Score, Scorer, Scores

if TYPE_CHECKING:
    from bertnli.data.pairs import PairFile
    from bertnli.data.tokenizer import PairTokenizer
    from bertnli_export.scoring_setup import ScoringSetup


class Texts(NamedTuple):
    """Rows that can be scored, a list each."""

    premises: list[str]
    hypotheses: list[str]  # ignored by an expansion that reads single texts
    cells: list[Any] | None  # of the column that the expansion also reads, if it does


class Expanded(NamedTuple):
    """The pairs of some rows, each row's together."""

    encoded: Encoded
    counts: NDArray[np.int64]  # [rows], their pairs; may be 0 for a row in `refused`
    truncated: NDArray[np.bool_]  # [rows]
    refused: Mapping[int, str]  # index of a row that cannot be scored: the reason
    details: Sequence[Any]  # what `reduce` needs to know, of each pair or of each row


class Expansion(ABC):
    """How rows become pairs and the outputs of pairs become rows. It can be pickled, for worker processes."""

    reads_texts: bool = False
    """Whether a row is a single text, not a pair."""

    column: str | None = None
    """A column of the input that it reads beside the texts."""

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """All that its scores depend on, for the run's record."""

    @property
    def notes(self) -> list[str]:
        """What the user should know about how the options were read, a line each."""
        return []

    @abstractmethod
    def rows_in_chunk(self, pairs: int) -> int:
        """How many rows make about as many pairs as a chunk without an expansion has. Fixed by the options."""

    @abstractmethod
    def check(self, outputs: Outputs, tokenizer: PairTokenizer) -> None:
        """Raise InputError for a model whose scores cannot be used so."""

    def for_file(self, file: PairFile) -> Expansion:
        """The same, for this input. Raises InputError if it lacks a column."""
        return self

    @abstractmethod
    def columns(self, outputs: Outputs, prefix: str) -> ScoreColumns:
        """What is added to a row of the output."""

    @abstractmethod
    def expand(self, tokenizer: PairTokenizer, texts: Texts) -> Expanded: ...

    @abstractmethod
    def reduce(self, expanded: Expanded, logits: NDArray[np.float32], setup: ScoringSetup) -> Scores:
        """The scores of the rows. logits: `[pairs, labels]`."""

    @abstractmethod
    def texts_of(self, items: Sequence[Any]) -> Texts:
        """What a caller of `Scorer.score` gives. Raises InputError for an item that is something else."""

    @abstractmethod
    def score_of(self, outputs: Outputs, item: Any, scores: Scores, row: int) -> Score:
        """What a caller of `Scorer.score` gets for the item of a row."""

    def iter(self, scorer: Scorer, items: Iterable[Any]) -> Iterator[Score]:
        """`Scorer.iter` with this expansion."""
        self.check(scorer.outputs, scorer.tokenizer)
        source, size = iter(items), self.rows_in_chunk(CHUNK[scorer.session.device.kind])
        while chunk := list(islice(source, size)):
            scores = submit(scorer, self.texts_of(chunk), self)()
            scorer.check_scores(scores, chunk)
            for row, item in enumerate(chunk):
                yield self.score_of(scorer.outputs, item, scores, row)


def submit(scorer: Scorer, texts: Texts, expansion: Expansion | None) -> Callable[[], Scores]:
    """Hand the pairs of rows to the session. The function that is returned waits for the rows' scores.

    Both raise as `Scorer.submit` and `Scorer.collect` do.
    """
    if expansion is None:
        return partial(scorer.collect, scorer.submit(texts.premises, texts.hypotheses))
    expanded = expansion.expand(scorer.tokenizer, texts)
    submitted = scorer.submit_encoded(expanded.encoded)
    return lambda: expansion.reduce(expanded, scorer.wait_for_logits(submitted), scorer.setup)
