"""How many tokens a model can read, from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# These count positions from behind the padding token's id, so that the first embeddings are never used.
_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
_PADDING = 1  # the id that these models have if config.json does not say it; MPNet's always


def usable_positions(config: Mapping[str, Any]) -> int | None:
    """The most tokens that a model can read: its position embeddings that are used. None: it has no such limit.

    config: the content of config.json. RoBERTa and its kin use `max_position_embeddings - pad_token_id - 1` of their
    embeddings. DeBERTa-v2's relative positions and ModernBERT's rotary ones take any length.
    """
    positions = trained_length(config)
    return None if _is_relative(config) else positions


def trained_length(config: Mapping[str, Any]) -> int | None:
    """The length that a model's positions were trained for; None if config.json does not say it."""
    positions = _size(config.get("max_position_embeddings"))
    kind = config.get("model_type")
    if positions is not None and kind in _AFTER_PADDING:
        padding = _size(config.get("pad_token_id")) if kind != "mpnet" else None
        positions -= 1 + (_PADDING if padding is None else padding)
    return positions if positions else None


def _is_relative(config: Mapping[str, Any]) -> bool:
    kind = config.get("model_type")
    return kind == "modernbert" or (kind == "deberta-v2" and config.get("position_biased_input", True) is False)


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
