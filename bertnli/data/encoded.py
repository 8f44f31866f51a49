"""Tokenised pairs in flat arrays, and as a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bertnli.data.truncation import Ints


@dataclass
class Encoded:
    """Token ids of pairs of different lengths, end to end in flat arrays."""

    ids: NDArray[np.int32]  # [total_tokens], [CLS] p [SEP] h [SEP] of each pair, or as the tokenizer joins them
    lengths: NDArray[np.int32]  # [pairs], in tokens, special tokens included
    # [pairs], tokens of type 0: [CLS] p [SEP], or all if the model has no token types. The others have type 1.
    first_segment: NDArray[np.int32]
    truncated: NDArray[np.bool_]  # [pairs]
    # Indices of pairs that truncation cannot shorten (see `unfit`). They are cut too, but the result means nothing.
    unfit: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """[pairs + 1]: pair i is `ids[offsets[i]:offsets[i + 1]]`."""
        return np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))


def pad_batch(encoded: Encoded, indices: Sequence[int] | Ints, pad_id: int = 0) -> dict[str, NDArray[np.int64]]:
    """The pairs at `indices`, padded on the right to the longest of them.

    Returns `input_ids`, `attention_mask` and `token_type_ids` as transformers names them, each int64 [batch, longest].
    """
    rows = np.asarray(indices, dtype=np.int64)
    lengths = encoded.lengths[rows][:, None]
    position = np.arange(lengths.max(initial=0))
    mask = position < lengths
    input_ids = np.full(mask.shape, pad_id, dtype=np.int64)
    input_ids[mask] = encoded.ids[(encoded.offsets[rows][:, None] + position)[mask]]
    second_segment = mask & (position >= encoded.first_segment[rows][:, None])
    return {
        "input_ids": input_ids,
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": second_segment.astype(np.int64),
    }
