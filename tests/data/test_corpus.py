"""The tokenised corpus: the tokenizer's own ids, made once, never half, mapped by all; and the held-out rows."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bertnli.common.errors import InputError, RunError
from bertnli.data import corpus as corpora
from bertnli.data.corpus import Corpus, prepare, split_holdout
from bertnli.data.pairs import PairFile
from bertnli.data.tokenizer import PairTokenizer
from tests.conftest import environment
from tests.support import tiny

LABELS = ("entailment", "neutral", "contradiction")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> PairTokenizer:
    return PairTokenizer.from_folder(tiny.hf_folder(tmp_path_factory.mktemp("model")))


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "corpora").iterdir() if path.is_dir()]


def test_holds_what_the_tokenizer_says(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(corpora, "_CHUNK", 64)  # several chunks
    rows = tiny.snli_rows(300)
    corpus = prepare(PairFile(write_rows(tmp_path / "a.jsonl", rows)), tokenizer, LABELS)
    labelled = [(number, row) for number, row in enumerate(rows, 1) if row["gold_label"] != "-"]
    assert corpus.about["no_gold"] == len(rows) - len(labelled) > 0
    assert corpus.rows.tolist() == [number for number, _ in labelled]
    assert corpus.labels.tolist() == [LABELS.index(row["gold_label"]) for _, row in labelled]
    alone = tokenizer.encode([row["sentence1"] for _, row in labelled], [row["sentence2"] for _, row in labelled])
    for name in ("ids", "lengths", "first_segment"):
        assert (getattr(corpus, name) == getattr(alone, name)).all()
    assert (corpus.offsets == alone.offsets[:-1]).all()
    same = [a["sentence1"] == b["sentence1"] for (_, a), (_, b) in pairwise(labelled)]
    assert (np.diff(corpus.premises.astype(np.int64)) == 0).tolist() == same
    assert isinstance(corpus.ids, np.memmap)


def test_made_once_and_anew_when_something_changes(tmp_path, tokenizer, own_cache, monkeypatch):
    path = write_rows(tmp_path / "a.jsonl", tiny.snli_rows(50))
    first = prepare(PairFile(path), tokenizer, LABELS)
    monkeypatch.setattr(corpora, "_write", None)  # calling it would fail
    assert len(prepare(PairFile(path), tokenizer, LABELS)) == len(first)
    monkeypatch.undo()
    monkeypatch.setenv("BERTNLI_CACHE", str(own_cache))
    assert prepare(PairFile(path), tokenizer, LABELS[::-1]).labels.tolist() != first.labels.tolist()
    write_rows(path, tiny.snli_rows(51))
    assert len(prepare(PairFile(path), tokenizer, LABELS)) > len(first) - 1
    assert len(folders(own_cache)) == 3


def test_a_file_that_changes_while_it_is_read_leaves_no_corpus(tmp_path, tokenizer, own_cache, monkeypatch):
    path, rows = write_rows(tmp_path / "a.jsonl", tiny.snli_rows(50)), tiny.snli_rows(49)
    monkeypatch.setattr(corpora.heartbeat, "beat", lambda doing: "tokenising" in doing and write_rows(path, rows))
    with pytest.raises(RunError, match=r"a\.jsonl: was changed while it was read"):
        prepare(PairFile(path), tokenizer, LABELS)
    assert folders(own_cache) == []


def test_bad_rows_leave_nothing_behind(tmp_path, tokenizer, own_cache):
    rows = [*tiny.snli_rows(20), {"sentence1": "A man.", "sentence2": "", "gold_label": "neutral"}]
    path = write_rows(tmp_path / "bad.jsonl", rows)
    with pytest.raises(InputError, match="row 21"):
        prepare(PairFile(path), tokenizer, LABELS)
    assert folders(own_cache) == []
    assert prepare(PairFile(path), tokenizer, LABELS, skip_bad_rows=True).about["bad"] == 1


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def changed_record(folder: Path, **changes: object) -> None:
    path = folder / "about.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def swap(folder: Path) -> None:
    (folder / "labels").rename(folder / "other")
    (folder / "lengths").rename(folder / "labels")
    (folder / "other").rename(folder / "lengths")


def replaced(path: Path, put: Callable[[Path], object]) -> None:
    path.unlink()
    put(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped labels": lambda folder: flip(folder / "labels"),
    "flipped ids": lambda folder: flip(folder / "ids"),
    "another label each": lambda folder: (folder / "labels").write_bytes(bytes((folder / "labels").stat().st_size)),
    "truncated": lambda folder: os.truncate(folder / "offsets", 100),
    "empty": lambda folder: os.truncate(folder / "lengths", 0),
    "longer": lambda folder: os.truncate(folder / "rows", 100_000),
    "removed": lambda folder: (folder / "premises").unlink(),
    "swapped": swap,
    "a folder for a file": lambda folder: replaced(folder / "ids", Path.mkdir),
    "a pipe for a file": lambda folder: replaced(folder / "ids", os.mkfifo),
    "a link to nothing": lambda folder: replaced(folder / "labels", lambda path: path.symlink_to("nothing")),
    "no record": lambda folder: (folder / "about.json").unlink(),
    "an empty record": lambda folder: os.truncate(folder / "about.json", 0),
    "half a record": lambda folder: os.truncate(folder / "about.json", 50),
    "no UTF-8": lambda folder: (folder / "about.json").write_bytes(b"\xff\xfe"),
    "no map": lambda folder: (folder / "about.json").write_text("[1]"),
    "deep": lambda folder: (folder / "about.json").write_text("[" * 100_000),
    "another vocabulary": lambda folder: changed_record(folder, vocabulary=100_000),
    "other counts": lambda folder: changed_record(folder, no_gold=7),
    "no files": lambda folder: changed_record(folder, files={}),
    "a pipe for the record": lambda folder: replaced(folder / "about.json", os.mkfifo),
    "nothing in it": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a file for the folder": lambda folder: (shutil.rmtree(folder), folder.write_bytes(b"x")),
    "a link for the folder": lambda folder: (shutil.rmtree(folder), folder.symlink_to("nowhere")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_corpus_is_made_anew(kind, tmp_path, tokenizer, own_cache, capsys, monkeypatch):
    path = write_rows(tmp_path / "a.jsonl", tiny.snli_rows(50))

    def arrays(corpus: Corpus) -> dict[str, bytes]:
        return {name: getattr(corpus, name).tobytes() for name in corpora._ARRAYS}

    first = prepare(PairFile(path), tokenizer, LABELS)
    right = arrays(first)
    [folder] = folders(own_cache)
    DAMAGE[kind](folder)
    again = prepare(PairFile(path), tokenizer, LABELS)
    assert arrays(again) == right and again.about == first.about
    assert f"{folder}: " in (said := capsys.readouterr().err) and said.endswith("this corpus is made again\n")
    monkeypatch.setattr(corpora, "_write", None)  # calling it would fail
    assert arrays(prepare(PairFile(path), tokenizer, LABELS)) == right
    assert sorted(entry.name for entry in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_a_corpus_of_another_name_is_not_taken(tmp_path, tokenizer, own_cache):
    path = write_rows(tmp_path / "a.jsonl", tiny.snli_rows(50))
    right = prepare(PairFile(path), tokenizer, LABELS).labels.tolist()
    [folder] = folders(own_cache)
    assert prepare(PairFile(path), tokenizer, LABELS[::-1]).labels.tolist() != right
    [other] = set(folders(own_cache)) - {folder}
    shutil.rmtree(folder)
    other.rename(folder)
    assert prepare(PairFile(path), tokenizer, LABELS).labels.tolist() == right


def test_a_full_disk_is_named(tmp_path, tokenizer, own_cache, monkeypatch):
    path = write_rows(tmp_path / "a.jsonl", tiny.snli_rows(50))

    @contextmanager
    def new_folder(*arguments: object, **options: object) -> Iterator[Path]:
        with corpora_new_folder(*arguments, **options) as partial:
            (partial / "ids").symlink_to("/dev/full")
            yield partial

    corpora_new_folder = corpora.new_folder
    monkeypatch.setattr(corpora, "new_folder", new_folder)
    with pytest.raises(InputError, match=rf"the disk of {own_cache} is full; found No space left.*on another disk"):
        prepare(PairFile(path), tokenizer, LABELS)
    assert folders(own_cache) == []


def prepare_and_report(path: Path, folder: Path, cache: Path, queue: multiprocessing.Queue) -> None:
    os.environ["BERTNLI_CACHE"] = str(cache)
    written = []
    write = corpora._write
    corpora._write = lambda *arguments: (written.append(1), time.sleep(0.5), write(*arguments))[-1]
    queue.put((len(prepare(PairFile(path), PairTokenizer.from_folder(folder), LABELS)), len(written)))


def test_two_jobs_at_once_make_it_once(tmp_path, own_cache):
    path = write_rows(tmp_path / "a.jsonl", tiny.snli_rows(200))
    folder = tiny.hf_folder(tmp_path / "model")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    jobs = [context.Process(target=prepare_and_report, args=(path, folder, own_cache, queue)) for _ in range(2)]
    for job in jobs:
        job.start()
    (pairs_a, written_a), (pairs_b, written_b) = queue.get(timeout=60), queue.get(timeout=60)
    for job in jobs:
        job.join(timeout=60)
        assert job.exitcode == 0
    assert pairs_a == pairs_b and sorted((written_a, written_b)) == [0, 1]


def test_a_killed_preparation_leaves_nothing_that_counts(tmp_path, own_cache):
    path = write_rows(tmp_path / "a.jsonl", tiny.snli_rows(3000))
    folder = tiny.hf_folder(tmp_path / "model")
    program = (
        "import sys, os, signal; from bertnli.data import corpus; from bertnli.data.pairs import PairFile\n"
        "from bertnli.data.tokenizer import PairTokenizer\n"
        "corpus._CHUNK = 64\n"
        "hash_ = corpus._text_hash\n"
        "def counting(text, seen=[0]):\n"
        "    seen[0] += 1\n"
        "    if seen[0] == 1000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return hash_(text)\n"
        "corpus._text_hash = counting\n"
        f"corpus.prepare(PairFile({str(path)!r}), PairTokenizer.from_folder({str(folder)!r}), {LABELS!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], env=environment(), timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in folders(own_cache)] == [".partial"]
    corpus = prepare(PairFile(path), PairTokenizer.from_folder(folder), LABELS)
    assert len(corpus) + corpus.about["no_gold"] == 3000
    assert [path.suffix for path in folders(own_cache)] == [""]  # what the killed one left is gone


def test_what_is_in_the_cache_is_read_whoever_made_it(tmp_path, tokenizer, own_cache, monkeypatch):
    """Root may write anywhere, so that others' locks are refused by a stand-in."""
    path = write_rows(tmp_path / "a.jsonl", tiny.snli_rows(50))
    first = prepare(PairFile(path), tokenizer, LABELS)
    assert first.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    def refused(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(corpora, "held", refused)
    assert len(prepare(PairFile(path), tokenizer, LABELS)) == len(first)
    with pytest.raises(InputError, match=r"cannot be written; found Permission denied; .*BERTNLI_CACHE"):
        prepare(PairFile(write_rows(path, tiny.snli_rows(51))), tokenizer, LABELS)


def test_a_pipe_is_refused_before_its_rows_are_lost(tmp_path, tokenizer, own_cache):
    pipe = tmp_path / "pairs.jsonl"
    os.mkfifo(pipe)
    content = "".join(json.dumps(row) + "\n" for row in tiny.snli_rows(50))
    writer = threading.Thread(target=pipe.write_text, args=(content,), daemon=True)
    writer.start()
    with pytest.raises(InputError, match=r"pairs\.jsonl is a pipe, but must be read twice; write it to a file first"):
        prepare(PairFile(pipe), tokenizer, LABELS)


def corpus_of_premises(premises: list[int]) -> Corpus:
    corpus = Corpus.__new__(Corpus)
    corpus.premises = np.array(premises, dtype=np.uint64)
    corpus.lengths = np.full(len(premises), 20, dtype=np.int32)
    return corpus


def test_no_premise_on_both_sides_of_the_holdout():
    premises = np.repeat(np.arange(500), 3).tolist()
    train, held = split_holdout(corpus_of_premises(premises), 100, seed=3)
    assert len(held) == 100 and len(set(held)) == 100
    keys = np.array(premises)
    assert not set(keys[train]) & set(keys[held])
    assert len(train) >= len(premises) - 102
    again = split_holdout(corpus_of_premises(premises), 100, seed=3)
    assert (again[1] == held).all() and (split_holdout(corpus_of_premises(premises), 100, seed=4)[1] != held).any()


@pytest.mark.parametrize("rows", [1500, 1499, 5000])
def test_a_holdout_that_leaves_nothing_is_refused(rows):
    with pytest.raises(ValueError, match="1500 pairs"):
        split_holdout(corpus_of_premises(np.repeat(np.arange(500), 3).tolist()), rows, seed=0)


def test_real_rows(shared_data, tokenizer):
    path = shared_data / "snli_1.0" / "snli_1.0_test.jsonl.gz"
    corpus = prepare(PairFile(path), tokenizer, LABELS)
    assert (len(corpus), corpus.about["no_gold"], corpus.about["bad"]) == (9824, 176, 0)
    assert np.bincount(corpus.labels).tolist() == [3368, 3219, 3237]
