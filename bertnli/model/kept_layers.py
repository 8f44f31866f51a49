"""A smaller model of some blocks of a larger one, as a start for training (Sanh et al. 2019, DistilBERT, section 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from bertnli.common.errors import InputError
from bertnli.model.pretrained import Pretrained

_BLOCK = re.compile(r"blocks\.(\d+)\.")


def with_layers(source: Pretrained, kept: Sequence[int]) -> Pretrained:
    """The model with the blocks `kept` alone, counted from 0, in their order; all else is the same.

    Raises InputError unless `kept` ascend and are some of its blocks, and for a family whose blocks are not all of one
    kind or serve several layers (ModernBERT, ALBERT).
    """
    config = source.config
    if config.distinct_blocks is not None or config.rotary is not None:
        do = "choose a smaller model, or one of another family"
        raise InputError(f"keep_layers: blocks of a {config.family} model cannot be left out", do=do)
    places = {old: new for new, old in enumerate(kept)}
    if not kept or list(kept) != sorted(places) or max(kept) >= config.num_layers:
        raise InputError(
            "keep_layers",
            found=", ".join(map(str, kept)) or "none",
            expected=f"numbers from 0 to {config.num_layers - 1}, ascending",
            do=f"to keep every second block: {list(range(1, config.num_layers, 2))}",
        )
    state = {}
    for name, tensor in source.state.items():
        found = _BLOCK.match(name)
        if found is None:
            state[name] = tensor
        elif int(found[1]) in places:
            state[f"blocks.{places[int(found[1])]}.{name[found.end() :]}"] = tensor
    note = f"keep_layers: blocks {', '.join(map(str, kept))} of {config.num_layers}"
    return replace(source, config=replace(config, num_layers=len(kept)), state=state, notes=(*source.notes, note))
