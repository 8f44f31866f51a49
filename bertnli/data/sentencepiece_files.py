"""Reads a sentencepiece model (sentencepiece.bpe.model, spm.model, spiece.model) with Google's own library.

Only a model whose folder has no tokenizer.json needs it, and only until bertnli has written one: a bundle never does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken

from bertnli.common.errors import InputError, first_line

_UNIGRAM = 1  # TrainerSpec.ModelType
_CONTROL, _USER_DEFINED = 3, 4  # ModelProto.SentencePiece.Type
_INSTALL = "pip install 'bertnli[export]', or pip install sentencepiece protobuf"


class SentencePieces(NamedTuple):
    """pieces: each with its score, in the order of the ids. added: control tokens and those that the user defined.

    normalization: the compiled map of characters that it replaces; empty if it has none.
    """

    pieces: list[tuple[str, float]]
    unknown: int
    added: list[AddedToken]
    normalization: bytes


def read(file: Path) -> SentencePieces:
    """Raises InputError that names the file if it is damaged or no Unigram model, or the library is not installed."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        raise InputError(
            f"{file}: its folder has no tokenizer.json, so it is read with the library sentencepiece",
            found=first_line(error),
            expected="the packages sentencepiece and protobuf",
            do=_INSTALL,
        ) from None
    model: Any = vars(sentencepiece_model_pb2)["ModelProto"]()  # protobuf makes the class when the module is loaded
    try:
        model.ParseFromString(file.read_bytes())
    except Exception as error:  # the library's DecodeError, or one of the system
        raise InputError(
            f"{file}: damaged", found=first_line(error), expected="a sentencepiece model", do="get the model again"
        ) from None
    if not model.pieces or model.trainer_spec.model_type != _UNIGRAM:
        names = {2: "BPE", 3: "words", 4: "characters"}
        raise InputError(
            f"{file}: type of the model",
            found=names.get(model.trainer_spec.model_type, "an empty one"),
            expected="Unigram",
            do="open it with transformers' AutoTokenizer and call save_pretrained(FOLDER), which writes tokenizer.json",
        )
    return SentencePieces(
        pieces=[(piece.piece, piece.score) for piece in model.pieces],
        unknown=model.trainer_spec.unk_id,
        added=[
            AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)
            for piece in model.pieces
            if piece.type in (_CONTROL, _USER_DEFINED)
        ],
        normalization=model.normalizer_spec.precompiled_charsmap,
    )
