"""`bertnli score`: a file of sentence pairs to the same file with scores, each row once, whatever is killed on the way.

Chunks of rows, fixed in size, are the unit of everything: of tokenising, of batching by length, of writing and of going
on after a stop. So the output's bytes depend on the input alone and not on when the run was interrupted.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from bertnli.common.errors import Interrupted, RunError
from bertnli.common.files import digest
from bertnli.data.formats import format_of
from bertnli.data.labels import LabelTable
from bertnli.data.pairs import Columns, PairFile
from bertnli_export.bundle import versions
from bertnli_export.devices import CPU, Device, choose_devices
from bertnli_export.output_file import check_output
from bertnli_export.pool import Pool
from bertnli_export.record import Counts, Record, check_free, resume
from bertnli_export.scorer import CHUNK, NOT_FINITE, Judged, Score, Scorer
from bertnli_export.scoring_setup import ScoringSetup, prepare
from bertnli_export.stages import Engine, Here, Task
from bertnli_export.writer import Scored, Writer, open_writer

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
    gpus: str | None = None,
    workers: int = 1,
    temperature: float | None = None,
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
    bad row, which otherwise keeps its place with the reason. On the CPU `workers` processes share the cores; of several
    GPUs all are used, or those that `gpus` lists ("0,1"). The output does not depend on the number of workers.
    `temperature` as `Scorer` has it. A `Scorer` in place of a bundle is used as it is, on its own device.

    Returns the summary: `output`; `rows`, `errors`, `truncated`; `labelled` and `accuracy` where rows have gold labels;
    `device`, `load_seconds`; `pairs_per_second` (rows of this run, from the input opened to the output closed, without
    loading); `resumed_at`, the rows done before; `already_finished`; `worker_deaths`, if there were any.

    Raises InputError if anything is wrong beforehand; RunError if the input turns out damaged, `strict` meets a bad row
    or the output cannot be written; passes Interrupted on with advice.
    """
    began = time.perf_counter()
    load: Callable[[], Engine]
    if isinstance(bundle, str | os.PathLike):
        devices = choose_devices(device, gpus, workers)
        setup = prepare(bundle, devices[0], temperature)
        load = partial(_load, setup, devices)
    else:
        setup, load = bundle.setup, partial(Here, bundle, keep=True)
    kind, labels = setup.device.kind, setup.bundle.labels
    load_seconds = time.perf_counter() - began

    began = time.perf_counter()
    file = PairFile(input, columns=columns, format=input_format, prefer_parse=setup.tokenizer.settings.reads_parse)
    run = _run_towards(output, file, setup, prefix, output_format, restart)
    if strict and run.counts.errors:
        raise RunError(
            f"{output}: an earlier run, without --strict, passed over {run.counts.errors} bad rows",
            do="see the column error, or start over with --restart",
        )
    if run.state == "finished":
        return run.summary | {"already_finished": True}

    resumed_at, deaths = run.counts.rows, 0
    if not run.is_published:
        loading = time.perf_counter()
        engine = load()
        loading = time.perf_counter() - loading
        load_seconds, began = load_seconds + loading, began + loading
        place: dict[str, Any] = {"prefix": prefix, "format": output_format, "resume_at": run.checkpoint}
        with closing(engine), _advice(run), open_writer(output, file, labels, **place) as writer:
            run.save()
            tasks = _tasks(file, CHUNK[kind], run.counts.rows)
            refuse = partial(_refuse_bad_rows, file.name) if strict else None
            _score_rows(engine, tasks, labels, writer, run, refuse, progress, checkpoint_seconds)
            writer.finish()
        deaths = engine.deaths
    seconds = time.perf_counter() - began

    counts = run.counts
    labelled = {"labelled": counts.labelled, "accuracy": counts.correct / counts.labelled} if counts.labelled else {}
    summary = {
        "output": os.fspath(output),
        "rows": counts.rows,
        "errors": counts.errors,
        "truncated": counts.truncated,
        **labelled,
        "device": kind,
        "load_seconds": load_seconds,
        "pairs_per_second": (counts.rows - resumed_at) / seconds,
        "resumed_at": resumed_at,
        "already_finished": False,
        **({"worker_deaths": deaths} if deaths else {}),
    }
    run.finish(summary)
    return summary


def _load(setup: ScoringSetup, devices: Sequence[Device]) -> Engine:
    return Here(Scorer.from_setup(setup)) if devices == [CPU] else Pool(setup, devices)


def _run_towards(
    output: str | os.PathLike[str],
    file: PairFile,
    setup: ScoringSetup,
    prefix: str,
    output_format: str | None,
    restart: bool,
) -> Record:
    """The record of the run: new, or the one to go on with."""
    to_stdout = os.fspath(output) == "-"
    if not to_stdout:
        check_output(output, file.path)
    if to_stdout or file.path == "-" or not Path(file.path).is_file():  # a pipe cannot be read again
        if not (to_stdout or restart):
            check_free(Path(output))
        return Record(None, {})
    fingerprint = {
        "bundle": {"sha256": setup.bundle.sha256},
        "input": {"sha256": digest(Path(file.path)), "member": file.name.removeprefix(file.path)},
        "options": {
            **asdict(file.columns),
            "format": file.format,
            "output format": ".".join(filter(None, format_of(os.fspath(output), output_format))),
            "prefix": prefix,
            "temperature": setup.temperature,
        },
        "device": {"kind": setup.device.kind, "rows in a chunk": CHUNK[setup.device.kind]},
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
            do="give the same command again, without --restart, to go on" if run.output else None,
        ) from None


# ------------------------------------------------------------------------------------------------------------- rows


def _score_rows(
    engine: Engine,
    tasks: Iterator[Task],
    labels: Sequence[str],
    writer: Writer,
    run: Record,
    refuse: Callable[[Task, Sequence[Scored]], None] | None,
    progress: Progress | None,
    checkpoint_seconds: float,
) -> None:
    """Score and write the rows that `run` lacks; at the end all are durable and it is `complete`.

    `refuse` looks at every chunk before it is written.
    """
    began = last = time.monotonic()
    before = run.counts.rows
    with closing(engine.judged(tasks)) as items:
        for task, judged in items:
            results = _results(task, judged, labels, run.counts)
            if refuse is not None:
                refuse(task, results)
            writer.write(task.chunk, results)
            now = time.monotonic()
            if progress is not None:
                rate = (run.counts.rows - before) / (now - began)
                progress(run.counts.rows, f"{rate:,.0f} pairs/s on {engine.description}")
            if now - last >= checkpoint_seconds:
                run.checkpoint, last = writer.checkpoint(), now
                run.save()
    run.checkpoint, run.state = writer.checkpoint(), "complete"
    run.save()


def _tasks(file: PairFile, size: int, rows_done: int) -> Iterator[Task]:
    """The file's chunks of `size` after those done. Raises RunError for a damaged file."""
    skip = -(-rows_done // size)  # the last chunk may be a short one
    for chunk in islice(file.chunks(size), skip, None):
        yield Task(chunk, [index for index, row in enumerate(chunk.rows) if row.error is None])


def _refuse_bad_rows(name: str, task: Task, results: Sequence[Scored]) -> None:
    """Raise RunError for the first row that cannot be scored, or whose scores are none."""
    for row, result in zip(task.chunk.rows, results, strict=True):
        if result.error is not None:
            raise RunError(
                f"{name}: row {row.number}: {result.error}",
                do="mend it, or leave out --strict to have such rows marked in the column error",
            )


def _results(task: Task, judged: Judged, labels: Sequence[str], counts: Counts) -> list[Scored]:
    """What to write for each row of the chunk; adds them to `counts`."""
    rows = task.chunk.rows
    table = LabelTable(labels)
    results = [Scored(None, None, False, row.error) for row in rows]
    for at, index, probabilities, truncated in zip(task.good, *(part.tolist() for part in judged), strict=True):
        if math.isnan(probabilities[0]):
            results[at] = Scored(None, None, False, NOT_FINITE)
            continue
        results[at] = Scored(labels[index], probabilities, truncated, None)
        gold = table.index(rows[at].label)
        if gold >= 0:
            counts.labelled += 1
            counts.correct += gold == index
        counts.truncated += truncated
    counts.rows += len(rows)
    counts.errors += sum(result.error is not None for result in results)
    return results
