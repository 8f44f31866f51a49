"""How a tokenizer joins a premise and a hypothesis: the special tokens around them, and the token types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, processors

from bertnli.common.errors import InputError
from bertnli.data import tokenizer_files


class PairTemplate(NamedTuple):
    """A pair is `prefix` premise `separators` hypothesis `suffix` (ids): [CLS] p [SEP] h [SEP], <s> p </s></s> h </s>.

    typed_separators: how many of the separators have type 0, if the hypothesis has token type 1. None: there are no
    token types, all tokens have type 0.
    """

    prefix: tuple[int, ...]
    separators: tuple[int, ...]
    suffix: tuple[int, ...]
    typed_separators: int | None

    @property
    def special_tokens(self) -> int:
        """Their number in a pair."""
        return len(self.prefix) + len(self.separators) + len(self.suffix)

    @property
    def has_types(self) -> bool:
        return self.typed_separators is not None

    def join(self, premise: Iterable[int], hypothesis: Iterable[int]) -> list[int]:
        """The ids of a pair."""
        return [*self.prefix, *premise, *self.separators, *hypothesis, *self.suffix]

    def first_segment(self, premises: NDArray[np.integer], hypotheses: NDArray[np.integer]) -> NDArray[np.int32]:
        """How many tokens have type 0, `[pairs]`, from the tokens of the premises and of the hypotheses."""
        if self.typed_separators is None:
            return (premises + hypotheses + self.special_tokens).astype(np.int32)
        return (premises + len(self.prefix) + self.typed_separators).astype(np.int32)

    def in_words(self, tokenizer: Tokenizer) -> str:
        parts = (" ".join(str(tokenizer.id_to_token(one)) for one in part) for part in self[:3])
        prefix, separators, suffix = parts
        types = "two" if self.has_types else "no"
        return " ".join(filter(None, (prefix, "a", separators, "b", suffix))) + f", {types} token types"


def build(tokenizer: Tokenizer, first: str, separator: str, *, separators: int = 1, has_types: bool = True) -> None:
    """Join pairs as `first` premise `separator` … hypothesis `separator`. Both tokens must be in the vocabulary."""
    second = int(has_types)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, "$A", separator],
        pair=[first, "$A", *[separator] * separators, f"$B:{second}", f"{separator}:{second}"],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, separator)],
    )


def read(tokenizer: Tokenizer, where: str) -> PairTemplate:
    """How the tokenizer joins a pair. Raises InputError that names `where` if it is a way that no encoder has."""
    pair = tokenizer_files.call(tokenizer.encode, where, "a", "b")
    single = [tokenizer_files.call(tokenizer.encode, where, text, add_special_tokens=False).ids for text in "ab"]
    side = [-1 if number is None else number for number in pair.sequence_ids]
    if 0 in side and 1 in side:
        end, begin = len(side) - side[::-1].index(0), side.index(1)  # of the premise, of the hypothesis
        after = len(side) - side[::-1].index(1)
        template = PairTemplate(
            prefix=tuple(pair.ids[: side.index(0)]),
            separators=tuple(pair.ids[end:begin]),
            suffix=tuple(pair.ids[after:]),
            typed_separators=pair.type_ids[end:begin].count(0) if pair.type_ids[begin] else None,
        )
        lengths = (np.array([len(ids)]) for ids in single)
        first = int(template.first_segment(*lengths)[0])
        types = [0] * first + [1] * (len(side) - first)
        is_whole = pair.ids == template.join(*single) and pair.type_ids == types
        if is_whole and template.prefix and template.separators:
            return template
    raise InputError(
        f"{where}: post_processor",
        found=f"the pair (a, b) joined as {' '.join(pair.tokens)}, token types {pair.type_ids}",
        expected="[CLS] a [SEP] b [SEP] or <s> a </s> </s> b </s>, token type 1 for b and what follows, or 0 for all",
    )


def without_types(tokenizer: Tokenizer, template: PairTemplate) -> None:
    """Give all tokens of a pair type 0."""
    prefix, separators, suffix = (
        [str(tokenizer.id_to_token(one)) for one in part]
        for part in (template.prefix, template.separators, template.suffix)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*prefix, "$A", *suffix],
        pair=[*prefix, "$A", *separators, "$B:0", *suffix],
        special_tokens=[
            (token, tokenizer.token_to_id(token)) for token in dict.fromkeys((*prefix, *separators, *suffix))
        ],
    )
