"""Shared by the peers that use transformers: the model, and rows tokenised in advance as its guides do."""

from __future__ import annotations

from typing import Any

from benchmarks.peer import Unavailable
from benchmarks.work import Work


def model(work: Work, *, dropout: float | None = None) -> Any:
    """The classifier in the work's folder, in fp32; `dropout` replaces every dropout probability."""
    try:
        from transformers import AutoConfig, AutoModelForSequenceClassification
    except ImportError as error:
        raise Unavailable(f"{error}") from None
    names = [name for name in AutoConfig.from_pretrained(work.model).to_dict() if "dropout" in name]
    changes = {} if dropout is None else dict.fromkeys(names, dropout)
    return AutoModelForSequenceClassification.from_pretrained(work.model, **changes)


def tokenizer(work: Work) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(work.model)


def features(work: Work, pairs: int | None = None, *, pad: bool = False) -> list[dict[str, Any]]:
    """The first rows as `input_ids`, `token_type_ids`, `attention_mask` and `labels`. pad: all to full length."""
    from transformers import AutoConfig

    rows = work.read(pairs)
    label_ids = AutoConfig.from_pretrained(work.model).label2id
    encoded = tokenizer(work)(
        [row["sentence1"] for row in rows],
        [row["sentence2"] for row in rows],
        truncation=True,
        max_length=work.max_length,
        padding="max_length" if pad else False,
    )
    names = list(encoded)
    return [
        {**{name: encoded[name][place] for name in names}, "labels": label_ids[row["gold_label"]]}
        for place, row in enumerate(rows)
    ]


def device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
