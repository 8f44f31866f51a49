"""A labelled file that is tokenised once and cached on disk; all ranks memory-map the same files.

A corpus is a folder of flat arrays in the cache. Its name is a hash of everything that its content depends on: the
bytes of the file, the columns, the tokenizer, the labels. It is written into a temporary folder and then renamed, under
a lock. So a killed process leaves nothing incomplete, and of two jobs that need the same corpus only one makes it.
Its record, about.json, has the size and checksum of every array and one of its own. They are compared whenever a corpus
is opened, and one that was damaged since is made anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bertnli.common import heartbeat
from bertnli.common.errors import InputError, first_line
from bertnli.common.files import cache_dir, digest, new_folder
from bertnli.common.locks import held
from bertnli.common.progress import say
from bertnli.data.labelled import LabelledPairs, read_labelled
from bertnli.data.outputs import ProblemType
from bertnli.data.pairs import PairFile
from bertnli.data.tokenizer import PairTokenizer

_FORMAT = 5  # part of the hash: increase it when the arrays or `_COUNTS` change
_COUNTS = ("vocabulary", "tokens", "truncated", "no_gold", "bad")  # in `Corpus.about`
_CHUNK = 16_384  # pairs tokenised at once
_ABOUT = "about.json"
_ARRAYS: dict[str, np.dtype[Any]] = {
    "ids": np.dtype(np.uint16),  # [tokens], all pairs end to end; uint32 if the vocabulary has more than 65,536 tokens
    "offsets": np.dtype(np.int64),  # [pairs], where a pair's tokens begin
    "lengths": np.dtype(np.uint16),  # [pairs], in tokens
    "first_segment": np.dtype(np.uint16),  # [pairs], how many of these tokens are [CLS] premise [SEP]
    "labels": np.dtype(np.int8),  # [pairs], index into the model's labels; else float64, [pairs, outputs], see golds.py
    "rows": np.dtype(np.int64),  # [pairs], row number in the file
    "premises": np.dtype(np.uint64),  # [pairs], hash of the premise's text
}
_SOFT = {"soft_labels": np.dtype(np.float32)}  # [pairs, labels], with soft labels alone: what a pair is trained towards


class Corpus:
    """The arrays above, memory-mapped read-only; `len` is the number of pairs.

    about: `vocabulary` (number of token ids), `tokens`, `truncated` (pairs that were cut), and the rows that are not in
        it: `no_gold`, `bad`.
    key: its name in the cache, a hash of all that it depends on. rows_by_label: see `LabelledPairs.rows_by_label`.
    sha256: of the file that the corpus was made from. without_gold:
    pairs that have soft labels alone; their label is the most probable one. Raises `DamagedError` if the folder's files
    are not those that `_make` left.
    """

    ids: NDArray[np.integer]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.uint16]
    first_segment: NDArray[np.uint16]
    labels: NDArray[np.int8] | NDArray[np.float64]
    rows: NDArray[np.int64]
    premises: NDArray[np.uint64]
    soft_labels: NDArray[np.float32] | None = None

    def __init__(self, folder: Path):
        about = _read_record(folder)
        self.key: str = about["name"]
        self.sha256: str = about["sha256"]
        self.rows_by_label: dict[str, dict[str, int]] = about["rows_by_label"]
        self.about: dict[str, int] = {name: about[name] for name in _COUNTS}
        targets: int | None = about.get("targets")
        soft: int | None = about.get("soft")
        self.without_gold: int = about.get("without_gold", 0)
        for name, dtype in _types(self.about["vocabulary"], targets, soft is not None).items():
            setattr(self, name, np.memmap(folder / name, dtype=dtype, mode="r"))
        if targets is not None:
            self.labels = self.labels.reshape(-1, targets)
        if self.soft_labels is not None and soft is not None:
            self.soft_labels = self.soft_labels.reshape(-1, soft)

    def __len__(self) -> int:
        return len(self.lengths)


class DamagedError(Exception):
    """A corpus on disk is not as it was made; the text says which file of it."""


def prepare(
    file: PairFile,
    tokenizer: PairTokenizer,
    labels: Sequence[str],
    *,
    problem_type: ProblemType = "single_label_classification",
    skip_bad_rows: bool = False,
    label_names: Mapping[str, str] | None = None,
    soft: float | None = None,
) -> Corpus:
    """The corpus of `file`, from the cache or made now. Several processes may call this at the same time.

    soft: the file has soft labels (soft_labels.py). A pair is trained towards this share of them and, for the rest, its
    gold label; towards the soft labels alone if it has no gold label.

    Raises InputError as `read_labelled` does for bad rows (unless `skip_bad_rows`) and for labels; for a pipe, because
    the file is read twice; and if the cache does not have the corpus, or a damaged one, and cannot be written.
    Raises RunError if the file changes meanwhile.
    """
    if not file.rereadable:
        raise InputError(f"{file.name} is a pipe, but must be read twice", do="write it to a file first")
    content = file.sha256()
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
    classes = problem_type == "single_label_classification"
    if not classes:  # the names of the others stay as they were
        depends_on["problem_type"] = problem_type
    if soft is not None:
        depends_on["soft"] = soft
    key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_dir() / "corpora" / key
    corpus = _opened(folder)  # without the lock, which we cannot take if it is another user's
    if corpus is not None:
        return corpus
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder.with_suffix(".lock"), "waiting for another preparation of the corpus"):
            corpus = _opened(folder, warn=say)
            if corpus is None:
                options: dict[str, Any] = {"skip_bad_rows": skip_bad_rows, "label_names": label_names}
                options |= {"tokenizer": tokenizer, "soft": soft is not None}
                labelled = read_labelled(file, labels, problem_type=problem_type, **options)
                _make(folder, file, labelled, tokenizer, content, None if classes else len(labels), soft)
                corpus = Corpus(folder)
            return corpus
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"{folder}: the disk of {cache_dir()} is full" if full else f"{folder}: cannot be written"
        raise InputError(
            what,
            found=error.strerror or str(error),
            do="free space, or set BERTNLI_CACHE to a folder that you can write" + " on another disk" * full,
        ) from None


def _opened(folder: Path, warn: Callable[[str], None] = lambda line: None) -> Corpus | None:
    """The corpus in `folder`; None if there is none, or a damaged one, of which `warn` is told."""
    try:
        return Corpus(folder) if os.path.lexists(folder) else None
    except DamagedError as damage:
        warn(f"{folder}: {damage}; this corpus is made again")
        return None


def _read_record(folder: Path) -> dict[str, Any]:
    """The content of about.json, after every file was compared with it. Raises DamagedError."""
    record = folder / _ABOUT
    try:
        about = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
        if not isinstance(about, dict) or about.pop("checksum", None) != _checksum(about):
            raise DamagedError(f"{_ABOUT} is missing or damaged")
        if about["name"] != folder.name:
            raise DamagedError(f"{_ABOUT} is of another corpus")
        for name, (size, sha256) in about["files"].items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size or digest(path) != sha256:
                raise DamagedError(f"{name} is missing or damaged")
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"it cannot be read: {first_line(error)}") from None
    return about


def _checksum(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _make(
    folder: Path,
    file: PairFile,
    labelled: LabelledPairs,
    tokenizer: PairTokenizer,
    content: str,
    targets: int | None,
    soft: float | None,
) -> None:
    """Write the corpus and its record, in place of what is there. content: sha256 of `file`. targets: the numbers of a
    label; None if it is an index. soft: see `prepare`.

    Raises RunError if `file` has changed since it was opened: its corpus would be kept under another content's name.
    """
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    with new_folder(folder, replace=True) as partial:
        about: dict[str, Any] = {
            "name": folder.name,
            "sha256": content,
            **_write(partial, labelled, tokenizer, targets, soft),
        }
        file.check_unchanged()
        if targets is not None:
            about["targets"] = targets
        if soft is not None:
            about["soft"] = len(labelled.labels)
        about["rows_by_label"] = labelled.rows_by_label()
        about["files"] = {path.name: [path.stat().st_size, digest(path)] for path in partial.iterdir()}
        (partial / _ABOUT).write_text(json.dumps(about | {"checksum": _checksum(about)}), encoding="utf-8")


def _write(
    folder: Path, labelled: LabelledPairs, tokenizer: PairTokenizer, targets: int | None, soft: float | None
) -> dict[str, int]:
    """Write the arrays into `folder`. Returns what `Corpus.about` has, and `without_gold` with soft labels."""
    types = _types(tokenizer.vocab_size, targets, soft is not None)
    tokens = truncated = without_gold = 0
    with ExitStack() as opened:
        streams = {name: opened.enter_context((folder / name).open("wb")) for name in types}
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
            if soft is not None:
                arrays |= _mixed(np.array(gold), soft)
                without_gold += sum(label < 0 for label, *_ in gold)
            tokens += len(encoded.ids)
            truncated += int(encoded.truncated.sum())
            for name, values in arrays.items():
                # not tofile, which does not say that the disk is full
                streams[name].write(np.ascontiguousarray(values).astype(types[name]).data)
    counts = (tokenizer.vocab_size, tokens, truncated, labelled.no_gold, labelled.bad)
    counted = dict(zip(_COUNTS, counts, strict=True))
    return counted if soft is None else {**counted, "without_gold": without_gold}


def _mixed(gold: NDArray[np.float64], soft: float) -> dict[str, NDArray[Any]]:
    """What the values of `SoftGolds`, `[pairs, 1 + labels]`, are in a corpus. soft: see `prepare`."""
    labels, probabilities = gold[:, 0].astype(np.int64), gold[:, 1:]
    known = labels >= 0
    mixed = probabilities.copy()
    mixed[known] *= soft
    mixed[known, labels[known]] += 1 - soft
    return {"labels": np.where(known, labels, probabilities.argmax(axis=1)), "soft_labels": mixed}


def _types(vocabulary: int, targets: int | None, soft: bool) -> dict[str, np.dtype[Any]]:
    wide = {"ids": np.dtype(np.uint32)} if vocabulary > 2**16 else {}
    numbers = {} if targets is None else {"labels": np.dtype(np.float64)}
    return {**_ARRAYS, **wide, **numbers, **(_SOFT if soft else {})}


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Premises(Protocol):
    """A `Corpus`, or several in one (pooled_corpus.py)."""

    @property
    def premises(self) -> NDArray[np.uint64]: ...
    def __len__(self) -> int: ...


def split_holdout(corpus: Premises, rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
