"""How many tokens of a pair a model can read, from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# These count positions from behind the padding token's id, so that the first embeddings are never used. The families'
# own files have the same rule for the model; a test compares the two.
_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
_PADDING = 1  # the id that these models have if config.json does not say it; MPNet's always


def usable_positions(config: Mapping[str, Any]) -> int | None:
    """The most tokens that the model's positions are for; None if config.json does not say it.

    config: its content. RoBERTa and its kin use `max_position_embeddings - pad_token_id - 1` of their embeddings.
    DeBERTa-v2's relative positions and ModernBERT's rotary ones could take more than they were trained for.
    """
    positions = _size(config.get("max_position_embeddings"))
    kind = config.get("model_type")
    if positions is not None and kind in _AFTER_PADDING:
        padding = _size(config.get("pad_token_id")) if kind != "mpnet" else None
        positions -= 1 + (_PADDING if padding is None else padding)
    return positions


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
