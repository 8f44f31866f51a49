"""A labelled file that is tokenised once and cached on disk; all ranks memory-map the same files.

A corpus is a folder of flat arrays in the cache. Its name is a hash of everything that its content depends on: the
bytes of the file, the columns, the tokenizer, the labels. It is written into a temporary folder and then renamed, under
a lock. So a killed process leaves nothing incomplete, and of two jobs that need the same corpus only one makes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common import heartbeat
from bertnli.common.errors import InputError
from bertnli.common.files import cache_dir, digest, new_folder
from bertnli.common.locks import held
from bertnli.data.labelled import LabelledPairs, read_labelled
from bertnli.data.pairs import PairFile
from bertnli.data.tokenizer import PairTokenizer

_FORMAT = 4  # part of the hash: increase it when the arrays change
_CHUNK = 16_384  # pairs tokenised at once
_ARRAYS: dict[str, np.dtype[Any]] = {
    "ids": np.dtype(np.uint16),  # [tokens], all pairs end to end; uint32 if the vocabulary has more than 65,536 tokens
    "offsets": np.dtype(np.int64),  # [pairs], where a pair's tokens begin
    "lengths": np.dtype(np.uint16),  # [pairs], in tokens
    "first_segment": np.dtype(np.uint16),  # [pairs], how many of these tokens are [CLS] premise [SEP]
    "labels": np.dtype(np.int8),  # [pairs], index into the model's labels
    "rows": np.dtype(np.int64),  # [pairs], row number in the file
    "premises": np.dtype(np.uint64),  # [pairs], hash of the premise's text
}


class Corpus:
    """The arrays above, memory-mapped read-only; `len` is the number of pairs.

    about: `vocabulary` (number of token ids), `tokens`, and the rows that are not in it: `no_gold`, `bad`.
    rows_by_label: see `LabelledPairs.rows_by_label`. sha256: of the file that the corpus was made from.
    """

    ids: NDArray[np.integer]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.uint16]
    first_segment: NDArray[np.uint16]
    labels: NDArray[np.int8]
    rows: NDArray[np.int64]
    premises: NDArray[np.uint64]

    def __init__(self, folder: Path):
        about = json.loads((folder / "about.json").read_text())
        self.sha256: str = about.pop("sha256")
        self.rows_by_label: dict[str, dict[str, int]] = about.pop("rows_by_label")
        self.about: dict[str, int] = about
        for name, dtype in _types(self.about["vocabulary"]).items():
            setattr(self, name, np.memmap(folder / name, dtype=dtype, mode="r"))

    def __len__(self) -> int:
        return len(self.lengths)


def prepare(
    file: PairFile,
    tokenizer: PairTokenizer,
    labels: Sequence[str],
    *,
    skip_bad_rows: bool = False,
    label_names: Mapping[str, str] | None = None,
) -> Corpus:
    """The corpus of `file`, from the cache or made now. Several processes may call this at the same time.

    Raises InputError as `read_labelled` does for bad rows (unless `skip_bad_rows`) and for labels; for a pipe, because
    the file is read twice; and if the cache does not have the corpus and cannot be written.
    """
    if not Path(file.path).is_file():
        raise InputError(f"{file.name} is a pipe, but must be read twice", do="write it to a file first")
    content = digest(Path(file.path))
    depends_on = {
        "format": _FORMAT,
        "content": content,
        "name": Path(file.name).name,  # distinguishes the members of one archive
        "dialect": str(file.dialect),
        "columns": [file.columns.premise, file.columns.hypothesis, file.columns.label],
        "tokenizer": tokenizer.fingerprint,
        "labels": list(labels),
        "label_names": dict(label_names or {}),
        "skip_bad_rows": skip_bad_rows,
    }
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir() / "corpora" / key
    # A folder of that name is complete. It may be another user's, whose lock we cannot take.
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with held(folder.with_suffix(".lock"), "waiting for another preparation of the corpus"):
                if not folder.is_dir():
                    labelled = read_labelled(file, labels, skip_bad_rows=skip_bad_rows, label_names=label_names)
                    _make(folder, labelled, tokenizer, content)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written",
                found=error.strerror or str(error),
                do="free space, or set BERTNLI_CACHE to a folder that you can write",
            ) from None
    return Corpus(folder)


def _make(folder: Path, labelled: LabelledPairs, tokenizer: PairTokenizer, content: str) -> None:
    with new_folder(folder) as partial:
        about = _write(partial, labelled, tokenizer)
        more = {"sha256": content, "rows_by_label": labelled.rows_by_label()}
        (partial / "about.json").write_text(json.dumps(about | more))


def _write(folder: Path, labelled: LabelledPairs, tokenizer: PairTokenizer) -> dict[str, int]:
    """Write the arrays into `folder`. Returns the content of about.json."""
    types = _types(tokenizer.vocab_size)
    streams = {name: (folder / name).open("wb") for name in types}
    try:
        tokens = 0
        pairs = iter(labelled)
        while chunk := list(islice(pairs, _CHUNK)):
            heartbeat.beat(f"tokenising after {tokens:,} tokens")
            premises, hypotheses, gold, rows = zip(*chunk, strict=True)
            encoded = tokenizer.encode(premises, hypotheses)
            arrays: dict[str, Any] = {
                "ids": encoded.ids,
                "offsets": encoded.offsets[:-1] + tokens,
                "lengths": encoded.lengths,
                "first_segment": encoded.first_segment,
                "labels": gold,
                "rows": rows,
                "premises": [_text_hash(premise) for premise in premises],
            }
            tokens += len(encoded.ids)
            for name, values in arrays.items():
                np.asarray(values).astype(types[name]).tofile(streams[name])
    finally:
        for stream in streams.values():
            stream.close()
    return {"vocabulary": tokenizer.vocab_size, "tokens": tokens, "no_gold": labelled.no_gold, "bad": labelled.bad}


def _types(vocabulary: int) -> dict[str, np.dtype[Any]]:
    return _ARRAYS if vocabulary <= 2**16 else {**_ARRAYS, "ids": np.dtype(np.uint32)}


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def split_holdout(corpus: Corpus, rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the pairs to train on, and of `rows` pairs to evaluate on, chosen at random with the seed.

    SNLI has three hypotheses for each premise. A pair that shares its premise with a held-out pair is in neither part,
    so the accuracy is measured on premises that training never sees. Raises ValueError if the corpus is too small.
    """
    keys, group = np.unique(corpus.premises, return_inverse=True)
    # "HOLD" in ASCII makes it another random stream than that of the training order.
    order = np.random.default_rng([seed, 0x484F4C44]).permutation(len(keys))
    sizes = np.bincount(group, minlength=len(keys))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), rows)) + 1
    held = np.zeros(len(keys), dtype=bool)
    held[order[:enough]] = True
    inside = held[group]
    train, evaluation = np.flatnonzero(~inside), np.flatnonzero(inside)[:rows]
    if len(train) == 0 or len(evaluation) < rows:
        raise ValueError(f"{len(corpus)} pairs")
    return train, evaluation
