"""The names that columns usually have in public data sets, and which side of a pair each of them is.

Names are compared without case and outer blanks. docs/columns.md has the same tables; a test compares them.
"""

from __future__ import annotations

from collections.abc import Sequence

from bertnli.data.outputs import ProblemType

PAIR_COLUMNS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("text", "text_pair"))
"""(premise, hypothesis). The first pair that a file has is read."""

TEXT_COLUMNS = ("premise", "text", "sequence", "sentence")
"""Where a row is a single text: read if a file has exactly one of these."""

OTHER_PAIRS = {
    ("premise", "hypo"): "older NLI files",
    ("context", "hypothesis"): "ANLI as its authors wrote it",
    ("evidence", "claim"): "FEVER, Climate-FEVER, SciFact",
    ("document", "claim"): "fact checking",
    ("doc", "claim"): "LLM-AggreFact",
    ("document", "summary"): "factual consistency of summaries",
    ("article", "summary"): "factual consistency of summaries",
    ("sentence_a", "sentence_b"): "SICK",
    ("sentence_1", "sentence_2"): "",
    ("sent1", "sent2"): "",
    ("s1", "s2"): "",
    ("text1", "text2"): "",
    ("text_1", "text_2"): "",
    ("text_a", "text_b"): "transformers' InputExample",
    ("question1", "question2"): "QQP (Quora)",
    ("question", "sentence"): "QNLI",
    ("question", "passage"): "BoolQ",
    ("question", "context"): "SQuAD",
    ("question", "answer"): "WikiQA, GooAQ",
    ("query", "passage"): "MS MARCO",
    ("query", "document"): "rerankers",
    ("query", "doc"): "rerankers",
    ("query", "answer"): "rerankers",
    ("query", "response"): "rerankers",
}
"""(premise, hypothesis) -> where they are in use. Read if a file has exactly one of these pairs, and none of the above.

The premise is the text that may prove the other one; of a reranker it is the query, as CrossEncoder takes it."""

NOT_PAIRS = {
    ("query", "context"): "in some files the context is the passage that answers the query, and in others (NLI-FEVER) "
    "the premise that may prove it",
    ("anchor", "positive"): "a row of anchor, positive and negative is two pairs, without a label; "
    "write each pair into a row with its label",
}
"""Names that look like a pair -> why they are not read unless the user says which is which."""

LABEL_COLUMNS = ("label", "gold_label")
"""The first one that a file has is read."""

OTHER_LABELS = {
    "labels": "MTEB",
    "entailment_judgment": "SICK of SemEval 2014",
    "entailment_label": "SICK",
    "is_duplicate": "QQP (Quora)",
}
"""Label columns -> where they are in use. Read if a file has exactly one of these, and none of the above."""

SCORE_COLUMNS = {
    "score": "STS-B, MTEB, sentence-transformers",
    "similarity": "",
    "similarity_score": "STS-B in several languages",
    "relatedness_score": "SICK",
    "relevance": "rerankers",
}
"""As OTHER_LABELS, for a model that gives a score."""

_OF_OUR_SCORES = frozenset(("truncated", "error"))  # columns that `bertnli score` writes beside `score`


def usual_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The usual pairs among the folded `names` of columns: one of PAIR_COLUMNS, or else all of OTHER_PAIRS."""
    known = set(names)
    for pair in PAIR_COLUMNS:
        if known.issuperset(pair):
            return [pair]
    return [pair for pair in OTHER_PAIRS if known.issuperset(pair)]


def usual_partners(name: str, side: int, names: Sequence[str]) -> list[str]:
    """What is the other side of a pair among the folded `names`, if the column `name` is one side (0: the premise): one
    of PAIR_COLUMNS, or else of OTHER_PAIRS those that go with `name`, or else all that another one can be."""
    other = 1 - side
    usual = [pair[other] for pair in PAIR_COLUMNS if pair[other] in names][:1]
    own = [pair[other] for pair in OTHER_PAIRS if pair[side] == name and pair[other] in names]
    return usual or own or [one for one in dict.fromkeys(pair[other] for pair in OTHER_PAIRS) if one in names]


def usual_labels(names: Sequence[str], problem_type: ProblemType) -> list[str]:
    """The usual label columns among the folded `names`; several are equally good.

    A model that gives a score reads `score` and its like, and a file that has `label` too can be meant in two ways.
    With independent labels a column may have a label's name (label_columns.py), so only `labels` is taken.
    """
    known = set(names)
    best = [name for name in LABEL_COLUMNS if name in known][:1]
    others = list(OTHER_LABELS)
    if problem_type == "multi_label_classification":
        others = ["labels"]
    if problem_type == "regression":
        own = known >= _OF_OUR_SCORES
        best += [name for name in SCORE_COLUMNS if name in known and not (own and name == "score")]
    return best or [name for name in others if name in known]
