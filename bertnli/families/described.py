"""The families that run, in words, for `bertnli fetch --list`."""

from __future__ import annotations

from typing import TypedDict

from bertnli.families.table import FAMILIES

ABOUT = {  # by a family's first model_type; a test compares them with the table
    "bert": "BERT, MiniLM, TinyBERT, BGE; rerankers such as cross-encoder/ms-marco-MiniLM-L6-v2",
    "d2l-bert": "the d2l book's BERT, as bertnli writes it",
    "roberta": "RoBERTa, such as cross-encoder/nli-roberta-base",
    "xlm-roberta": "XLM-RoBERTa, 100 languages, such as joeddav/xlm-roberta-large-xnli and BAAI/bge-reranker-v2-m3",
    "camembert": "CamemBERT, French",
    "distilbert": "DistilBERT, such as typeform/distilbert-base-uncased-mnli",
    "electra": "ELECTRA, such as cross-encoder/ms-marco-electra-base",
    "ernie": "ERNIE 1.0 to 3.0",
    "deberta-v2": "DeBERTa v2 and v3, mDeBERTa, such as MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli",
    "modernbert": "ModernBERT, 8,192 tokens, such as tasksource/ModernBERT-base-nli",
    "mpnet": "MPNet, such as microsoft/mpnet-base",
    "albert": "ALBERT, such as textattack/albert-base-v2-snli",
}


class Described(TypedDict):
    family: str
    model_types: list[str]
    about: str


def families() -> list[Described]:
    """The rows of the table, in its order."""
    return [
        {"family": name, "model_types": list(family.model_types), "about": ABOUT.get(family.model_types[0], name)}
        for name, family in FAMILIES.items()
    ]
