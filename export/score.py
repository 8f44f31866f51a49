"""`bertnli score`: a file of sentence pairs to the same file with scores, each row once, whatever is killed on the way.

Chunks of rows, fixed in size, are the unit of everything: of tokenising, of batching by length, of writing and of going
on after a stop. So the output's bytes depend on the input alone and not on when the run was interrupted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, NamedTuple, TypeVar

from bertnli.errors import InputError, Interrupted, RunError
from bertnli.files import digest
from bertnli.formats import format_of
from bertnli.pairs import Chunk, Columns, PairFile
from bertnli.tokens import Encoded, PairTokenizer
from export.bundle import Bundle, versions
from export.record import Counts, Record, resume
from export.scorer import CHUNK, Score, Scorer, softmax
from export.session import choose_device
from export.writer import Scored, Writer, open_writer

__all__ = ["Score", "Scorer", "score_file"]

CHECKPOINT_SECONDS = 5.0
"""A killed run does about this much again, and the chunk it was in."""

VERSIONS = ("onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "pyarrow")

Progress = Callable[[int, str], None]  # rows done, a few words


def score_file(
    bundle: str | os.PathLike[str] | Scorer,
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    device: str = "auto",
    strict: bool = False,
    restart: bool = False,
    columns: Columns | None = None,
    prefix: str = "",
    input_format: str | None = None,
    output_format: str | None = None,
    progress: Progress | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> dict[str, Any]:
    """Score every row of `input` into `output`; columns and formats as `pairs.PairFile` and `writer` have them.

    The same call goes on with a run that was stopped or killed, and does nothing if its output is finished; `restart`
    starts over instead. From a pipe, or with `-` as output, a run cannot be gone on with. `strict` stops at the first
    bad row, which otherwise keeps its place with the reason. A `Scorer` in place of a bundle is used as it is, on
    its own device.

    Returns the summary: `output`; `rows`, `errors`, `truncated`; `labelled` and `accuracy` where rows have gold labels;
    `device`, `load_seconds`; `pairs_per_second` (rows of this run, from the input opened to the output closed, without
    loading); `resumed_at`, the rows done before; `already_finished`.

    Raises InputError if anything is wrong beforehand; RunError if the input turns out damaged, `strict` meets a bad row
    or the output cannot be written; passes Interrupted on with advice.
    """
    began = time.perf_counter()
    scorer: Scorer | None = None
    if isinstance(bundle, str | os.PathLike):
        opened = Bundle.open(bundle)
        opened.check_files()
        tokenizer = opened.tokenizer()
        device = choose_device(device)
    else:
        scorer, opened, tokenizer, device = bundle, bundle.bundle, bundle.tokenizer, bundle.session.device
    load_seconds = time.perf_counter() - began

    began = time.perf_counter()
    file = PairFile(input, columns=columns, format=input_format, prefer_parse=tokenizer.settings.reads_parse)
    run = _run_towards(output, file, opened, device, prefix, output_format, restart)
    if strict and run.counts.errors:
        raise RunError(
            f"{output}: an earlier run, without --strict, passed over {run.counts.errors} bad rows",
            do="see the column error, or start over with --restart",
        )
    if run.state == "finished":
        return run.summary | {"already_finished": True}

    resumed_at = run.counts.rows
    if not run.is_published:
        loading = time.perf_counter()
        scorer = scorer or Scorer(opened, device)
        loading = time.perf_counter() - loading
        load_seconds, began = load_seconds + loading, began + loading
        options: dict[str, Any] = {"prefix": prefix, "format": output_format, "resume_at": run.checkpoint}
        with _advice(run), open_writer(output, file, opened.labels, **options) as writer:
            run.save()
            _score_rows(scorer, file, writer, run, strict, progress, checkpoint_seconds)
            writer.finish()
    seconds = time.perf_counter() - began

    counts = run.counts
    labelled = {"labelled": counts.labelled, "accuracy": counts.correct / counts.labelled} if counts.labelled else {}
    summary = {
        "output": os.fspath(output),
        "rows": counts.rows,
        "errors": counts.errors,
        "truncated": counts.truncated,
        **labelled,
        "device": device,
        "load_seconds": load_seconds,
        "pairs_per_second": (counts.rows - resumed_at) / seconds,
        "resumed_at": resumed_at,
        "already_finished": False,
    }
    run.finish(summary)
    return summary


def _run_towards(
    output: str | os.PathLike[str],
    file: PairFile,
    bundle: Bundle,
    device: str,
    prefix: str,
    output_format: str | None,
    restart: bool,
) -> Record:
    """The record of the run: new, or the one to go on with."""
    to_stdout = os.fspath(output) == "-"
    if to_stdout or file.path == "-" or not Path(file.path).is_file():  # a pipe cannot be read again
        if not to_stdout and os.path.lexists(output) and not restart:
            raise InputError(f"{output}: is there already", do="replace it with --restart")
        return Record(None, {})
    fingerprint = {
        "bundle": {"sha256": bundle.sha256},
        "input": {"sha256": digest(Path(file.path)), "member": file.name.removeprefix(file.path)},
        "options": {
            **asdict(file.columns),
            "format": file.format,
            "output format": ".".join(filter(None, format_of(os.fspath(output), output_format))),
            "prefix": prefix,
            "rows in a chunk": CHUNK,
        },
        "device": {"kind": device},
        "versions": versions(VERSIONS),
    }
    return Record(Path(output), fingerprint) if restart else resume(Path(output), fingerprint)


@contextmanager
def _advice(run: Record) -> Iterator[None]:
    """Tell somebody who stops the run how to go on with it."""
    try:
        yield
    except Interrupted as stop:
        kept = (run.checkpoint or {}).get("rows", 0)
        raise Interrupted(
            stop.exit_code - 128,
            f"scoring was stopped; {kept} rows are kept" if run.output else "scoring was stopped",
            do="give the same command again to go on" if run.output else None,
        ) from None


# ------------------------------------------------------------------------------------------------------------- rows


class _Work(NamedTuple):
    """A chunk with its good rows tokenised: pair i of `encoded` is row `good[i]` of the chunk."""

    chunk: Chunk
    good: list[int]
    encoded: Encoded


def _score_rows(
    scorer: Scorer,
    file: PairFile,
    writer: Writer,
    run: Record,
    strict: bool,
    progress: Progress | None,
    checkpoint_seconds: float,
) -> None:
    """Score and write the rows that `run` lacks; at the end all are durable and it is `complete`."""
    began = last = time.monotonic()
    before = run.counts.rows
    work = _tokenised(file, scorer.tokenizer, -(-before // CHUNK), strict)  # the last chunk may be a short one
    with closing(_ahead(work)) as items:
        for item in items:
            writer.write(item.chunk, _score(scorer, item, run.counts))
            now = time.monotonic()
            if progress is not None:
                rate = (run.counts.rows - before) / (now - began)
                progress(run.counts.rows, f"{rate:,.0f} pairs/s on {scorer.session.description}")
            if now - last >= checkpoint_seconds:
                run.checkpoint, last = writer.checkpoint(), now
                run.save()
    run.checkpoint, run.state = writer.checkpoint(), "complete"
    run.save()


def _tokenised(file: PairFile, tokenizer: PairTokenizer, skip: int, strict: bool) -> Iterator[_Work]:
    """The file's chunks after the first `skip`. Raises RunError for a bad row if `strict`, or for a damaged file."""
    for chunk in islice(file.chunks(CHUNK), skip, None):
        good = [index for index, row in enumerate(chunk.rows) if row.error is None]
        if strict and len(good) < len(chunk.rows):
            bad = next(row for row in chunk.rows if row.error is not None)
            raise RunError(
                f"{file.name}: row {bad.number}: {bad.error}",
                do="mend it, or leave out --strict to have such rows marked in the column error",
            )
        rows = [chunk.rows[index] for index in good]
        encoded = tokenizer.encode([row.premise or "" for row in rows], [row.hypothesis or "" for row in rows])
        yield _Work(chunk, good, encoded)


def _score(scorer: Scorer, work: _Work, counts: Counts) -> list[Scored]:
    """What to write for each row of the chunk; adds them to `counts`."""
    rows = work.chunk.rows
    logits = scorer.encoded_logits(work.encoded)
    best = logits.argmax(axis=1).tolist()
    probabilities = softmax(logits).tolist()
    truncated = work.encoded.truncated.tolist()
    label_index = {label.casefold(): index for index, label in enumerate(scorer.labels)}

    results = [Scored(None, None, False, row.error) for row in rows]
    for at, index, row_probabilities, was_truncated in zip(work.good, best, probabilities, truncated, strict=True):
        results[at] = Scored(scorer.labels[index], row_probabilities, was_truncated, None)
        gold = label_index.get((rows[at].label or "").strip().casefold())
        if gold is not None:
            counts.labelled += 1
            counts.correct += gold == index
    counts.rows += len(rows)
    counts.errors += len(rows) - len(work.good)
    counts.truncated += sum(truncated)
    return results


_T = TypeVar("_T")


def _ahead(items: Iterable[_T]) -> Generator[_T, None, None]:
    """`items`, each made in another thread while the ones before it are in use; at most two wait."""
    queue: Queue[tuple[_T] | BaseException | None] = Queue(maxsize=1)  # an item, what went wrong, or the end
    stopped = Event()

    def put(entry: tuple[_T] | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return queue.put(entry, timeout=0.1)
            except Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put((item,))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = Thread(target=make, daemon=True)
    thread.start()
    try:
        while (entry := queue.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        stopped.set()
        thread.join(timeout=1)  # not for ever: it may be waiting for standard input
