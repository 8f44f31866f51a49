"""The table of the families that run, by their name and by config.json's `model_type`."""

from __future__ import annotations

from bertnli.families.albert import ALBERT
from bertnli.families.bert import BERT
from bertnli.families.d2l import D2L
from bertnli.families.deberta import DEBERTA
from bertnli.families.distilbert import DISTILBERT
from bertnli.families.electra import ELECTRA
from bertnli.families.ernie import ERNIE
from bertnli.families.family import Family
from bertnli.families.modernbert import MODERNBERT
from bertnli.families.mpnet import MPNET
from bertnli.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        *(BERT, D2L, ROBERTA, XLM_ROBERTA, CAMEMBERT, DISTILBERT, ELECTRA, ERNIE),
        *(DEBERTA, MODERNBERT, MPNET, ALBERT),
    )
}

BY_MODEL_TYPE: dict[str, Family] = {
    model_type: family for family in FAMILIES.values() for model_type in family.model_types
}
