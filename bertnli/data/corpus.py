"""A labelled file tokenised once and kept on disk, where every rank maps the same bytes.

A corpus is a folder of flat arrays in the cache, named by a hash of everything that decides its content: the file's
bytes, the columns, the tokenizer, the labels. It is written aside and appears in one rename, under a lock: a killed
preparation leaves nothing half-done, and two jobs that prepare the same one do it once.
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

_FORMAT = 3  # part of the key: raise it when the arrays change
_CHUNK = 16_384  # pairs tokenised at once
_ARRAYS: dict[str, np.dtype[Any]] = {
    "ids": np.dtype(np.uint16),  # [tokens], pair after pair; uint32 where the vocabulary has more than 65,536
    "offsets": np.dtype(np.int64),  # [pairs], where a pair's tokens begin
    "lengths": np.dtype(np.uint16),  # [pairs], its tokens
    "first_segment": np.dtype(np.uint16),  # [pairs], how many of them are [CLS] premise [SEP]
    "labels": np.dtype(np.int8),  # [pairs], index into the model's labels
    "rows": np.dtype(np.int64),  # [pairs], row number in the file
    "premises": np.dtype(np.uint64),  # [pairs], hash of the premise's text: equal premises, equal hashes
}


class Corpus:
    """The arrays above, mapped read-only; `len` is the number of pairs. Counts of rows left out are in `about`.

    sha256: of the file that it was made of.
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
    """The corpus of `file`, made now or found in the cache; safe to call from several processes at once.

    Raises InputError for bad rows (unless `skip_bad_rows`) and labels, as `pairs.read_labelled` does; for a pipe, which
    cannot be read twice; and if there is none in the cache, which cannot be written.
    """
    if not Path(file.path).is_file():
        raise InputError(f"{file.name} is a pipe, and is read twice", do="write it to a file first")
    content = digest(Path(file.path))
    decides = {
        "format": _FORMAT,
        "content": content,
        "name": Path(file.name).name,  # tells the members of one archive apart
        "columns": [file.columns.premise, file.columns.hypothesis, file.columns.label],
        "tokenizer": tokenizer.fingerprint,
        "labels": list(labels),
        "label_names": dict(label_names or {}),
        "skip_bad_rows": skip_bad_rows,
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir() / "corpora" / key
    if not folder.is_dir():  # whole where it is there, and maybe somebody else's, whose lock is not ours to take
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
                do="make room, or set BERTNLI_CACHE to a folder of yours",
            ) from None
    return Corpus(folder)


def _make(folder: Path, labelled: LabelledPairs, tokenizer: PairTokenizer, content: str) -> None:
    with new_folder(folder) as partial:
        about = _write(partial, labelled, tokenizer)
        (partial / "about.json").write_text(json.dumps(about | {"sha256": content}))


def _write(folder: Path, labelled: LabelledPairs, tokenizer: PairTokenizer) -> dict[str, int]:
    """Write the arrays. Returns the figures for about.json."""
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
    """Indices to train on, and `rows` indices to evaluate on, drawn by the seed.

    SNLI has three hypotheses for a premise: pairs that share a premise with the held-out ones are in neither, so
    the figure is for premises never seen. Raises ValueError if the corpus is not larger than that.
    """
    keys, group = np.unique(corpus.premises, return_inverse=True)
    order = np.random.default_rng([seed, 0x484F4C44]).permutation(len(keys))  # a stream of its own ("HOLD")
    sizes = np.bincount(group, minlength=len(keys))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), rows)) + 1
    held = np.zeros(len(keys), dtype=bool)
    held[order[:enough]] = True
    inside = held[group]
    train, evaluation = np.flatnonzero(~inside), np.flatnonzero(inside)[:rows]
    if len(train) == 0 or len(evaluation) < rows:
        raise ValueError(f"{len(corpus)} pairs")
    return train, evaluation
