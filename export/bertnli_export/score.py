"""`bertnli score`: a file of sentence pairs to the same file with scores, each row once, whatever is killed meanwhile.

Chunks of a fixed number of rows are the unit of tokenising, of batching by length, of writing and of resuming. So the
bytes of the output depend on the input only, and not on when the run was interrupted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError, Interrupted, RunError
from bertnli.common.urls import is_url
from bertnli.data.dialect import USUAL, Dialect
from bertnli.data.pairs import Columns, PairFile
from bertnli.fetch.resolve import resolve_data, shown_name
from bertnli_export.codec import Codec
from bertnli_export.devices import CPU, Device, choose_devices
from bertnli_export.expansion import Expansion
from bertnli_export.manifest import versions
from bertnli_export.new_bundle import check_outside
from bertnli_export.output_file import check_output
from bertnli_export.pool import Pool
from bertnli_export.remote_output import RemoteOutput, to_urls
from bertnli_export.run_record import RunRecord, check_free, resume
from bertnli_export.scorer import CHUNK, NOT_FINITE, Score, Scorer
from bertnli_export.scoring_setup import ScoringSetup, prepare
from bertnli_export.stages import InProcess, ScoringEngine
from bertnli_export.writer import Writer, open_writer, output_format_of

__all__ = ["Score", "Scorer", "score_file"]

CHECKPOINT_SECONDS = 5.0
"""Between two checkpoints. A killed run does at most about this much work again, and the chunk it was in."""

VERSIONS = ("onnxruntime", "onnxruntime-gpu", "tokenizers", "numpy", "pyarrow")

Progress = Callable[[int, str], None]  # rows done, and a short note on the speed


@to_urls
def score_file(
    bundle: str | os.PathLike[str] | Scorer,
    input: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    device: str = "auto",
    gpus: str | None = None,
    workers: int = 1,
    temperature: float | None = None,
    threshold: float | None = None,
    strict: bool = False,
    restart: bool = False,
    columns: Columns | None = None,
    prefix: str = "",
    input_format: str | None = None,
    output_format: str | None = None,
    dialect: Dialect | None = None,
    expansion: Expansion | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> dict[str, Any]:
    """Score every row of `input` into `output`; both may be URLs (docs/files.md). Columns, formats and dialects: see
    `pairs.PairFile` and writer.py.

    The same call resumes a run that was stopped or killed, and does nothing if its output is finished; with `restart`
    it starts over. A run from a pipe, or with `-` as output, cannot be resumed. `strict` stops at the first bad row,
    which otherwise keeps its place with the reason. On the CPU `workers` processes share the cores. Of several GPUs all
    are used, or those that `gpus` lists ("0,1"). The output does not depend on the number of workers. `temperature` and
    `threshold`: as for `Scorer`. If `bundle` is a `Scorer`, it is used on its own device and stays open. `expansion`:
    how a row becomes several pairs (expansion.py). `say` gets a line for each thing to know about how the input is
    read.

    Returns the summary: `output`; `rows`, `errors`, `truncated`; `labelled` and `accuracy` if rows have gold labels
    (`no_accuracy` if the model does not know all of them, see label_counts.py); `device`, `load_seconds`;
    `pairs_per_second` (rows of this run, from opening the input to closing the output, without loading; also with an
    expansion a row counts once); `resumed_at`, the rows done before; `already_finished`; `notes`, the lines that `say`
    gets, and `worker_deaths`, if there are any.

    Raises InputError for what is wrong before the start, and if `strict` finds a bad row; RunError if the input is
    damaged or changes meanwhile, or if the output cannot be written; Interrupted, with advice on how to continue.
    """
    began = time.perf_counter()
    load: Callable[[], ScoringEngine]
    if isinstance(bundle, str | os.PathLike):
        devices = choose_devices(device, gpus, workers)
        setup = prepare(bundle, devices[0], temperature, threshold=threshold)
        load = partial(_load, setup, devices)
    else:
        setup, load = bundle.setup, partial(InProcess, bundle, keep_open=True)
    if expansion is not None:
        expansion.check(setup.bundle.outputs, setup.tokenizer)
    load_seconds = time.perf_counter() - began

    given = os.fspath(input)
    shown, read = shown_name(given), resolve_data(given) if is_url(given) else given
    began = time.perf_counter()
    reads_parse = setup.tokenizer.settings.reads_parse
    options: dict[str, Any] = {"prefer_parse": reads_parse, "problem_type": setup.bundle.outputs.problem_type}
    if expansion is not None:
        options["texts"] = expansion.reads_texts
    file = PairFile(read, columns=columns, format=input_format, dialect=dialect, **options, shown=shown)
    said, notes = len(file.notes), list[str]()
    size = CHUNK[setup.device.kind]
    place: dict[str, Any] = {}
    if expansion is not None:
        expansion = expansion.for_file(file)
        notes, size = expansion.notes, expansion.rows_in_chunk(size)
        place["added"] = expansion.columns(setup.bundle.outputs, prefix)
    for note in notes + file.notes:
        say(note)
    run = _open_record(output, file, setup, prefix, output_format, restart, expansion, size)
    if strict and run.counts.errors:
        raise InputError(
            f"{output}: an earlier run, without --strict, skipped {run.counts.errors} bad rows",
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
        place |= {"prefix": prefix, "format": output_format, "resume_at": run.checkpoint}
        with closing(engine), _advice_on_stop(run), open_writer(output, file, setup.bundle.outputs, **place) as writer:
            run.save()
            codec = Codec(file, setup.bundle.outputs, writer.encoder, expansion)
            _score_rows(engine, codec, size, writer, run, strict, progress, checkpoint_seconds)
            writer.finish()
        deaths = engine.deaths
    seconds = time.perf_counter() - began
    for note in file.notes[said:]:
        say(note)

    counts = run.counts
    summary = {
        "output": output.shown if isinstance(output, RemoteOutput) else os.fspath(output),
        "rows": counts.rows,
        "errors": counts.errors,
        "truncated": counts.truncated,
        **counts.labels.summary(),
        "device": setup.device.kind,
        "load_seconds": load_seconds,
        "pairs_per_second": (counts.rows - resumed_at) / seconds,
        "resumed_at": resumed_at,
        "already_finished": False,
        **({"notes": notes + file.notes} if notes + file.notes else {}),
        **({"worker_deaths": deaths} if deaths else {}),
    }
    run.finish(summary)
    return summary


def _load(setup: ScoringSetup, devices: Sequence[Device]) -> ScoringEngine:
    return InProcess(Scorer.from_setup(setup)) if devices == [CPU] else Pool(setup, devices)


def _open_record(
    output: str | os.PathLike[str],
    file: PairFile,
    setup: ScoringSetup,
    prefix: str,
    output_format: str | None,
    restart: bool,
    expansion: Expansion | None,
    size: int,
) -> RunRecord:
    """The record of this run: a new one, or that of the run to resume."""
    to_stdout = os.fspath(output) == "-"
    if str(output) == file.name and isinstance(output, RemoteOutput):
        raise InputError(f"{output}: the output is the input", do="give it another name")
    if not to_stdout:
        check_output(output, file.path)
        check_outside(Path(output))
    if to_stdout or not file.rereadable:  # a pipe cannot be read again
        if isinstance(output, RemoteOutput) and not restart:
            output.check_free()
        elif not (to_stdout or restart):
            check_free(Path(output))
        return RunRecord(None, {})
    fingerprint = {
        "bundle": {"sha256": setup.bundle.sha256},
        "input": {"sha256": file.sha256(), "member": file.member},
        "options": {
            **asdict(file.columns),
            "format": file.format,
            **_dialect_option(file),
            "output format": ".".join(filter(None, output_format_of(os.fspath(output), output_format))),
            "prefix": prefix,
            "temperature": setup.temperature,
            **_threshold_option(setup),
            **(expansion.options if expansion is not None else {}),
        },
        "device": {"kind": setup.device.kind, "rows in a chunk": size},
        "versions": versions(VERSIONS),
    }
    if restart:
        return output.restart(fingerprint) if isinstance(output, RemoteOutput) else RunRecord(Path(output), fingerprint)
    return output.resume(fingerprint) if isinstance(output, RemoteOutput) else resume(Path(output), fingerprint)


def _threshold_option(setup: ScoringSetup) -> dict[str, float]:
    """The threshold, if it decides anything; so the records of most models do not have it."""
    independent = setup.bundle.outputs.problem_type == "multi_label_classification"
    return {"threshold": setup.threshold} if independent else {}


def _dialect_option(file: PairFile) -> dict[str, str]:
    """How a text table is written, if not as its format says; so the records of most files do not have it."""
    dialect = file.dialect
    usual = dialect is None or (dialect.header and dialect.is_like(USUAL[file.format]))
    return {} if usual else {"table": str(dialect)}


@contextmanager
def _advice_on_stop(run: RunRecord) -> Iterator[None]:
    """If the user stops the run, say how to continue it."""
    try:
        yield
    except Interrupted as stop:
        kept = (run.checkpoint or {}).get("rows", 0)
        raise Interrupted(
            stop.exit_code - 128,
            f"scoring was stopped; {kept} rows are kept" if run.output else "scoring was stopped",
            do="give the same command again, without --restart, to continue" if run.output else None,
        ) from None


# ------------------------------------------------------------------------------------------------------------- rows


def _score_rows(
    engine: ScoringEngine,
    codec: Codec,
    size: int,
    writer: Writer,
    run: RunRecord,
    strict: bool,
    progress: Progress | None,
    checkpoint_seconds: float,
) -> None:
    """Score and write the rows that are not in `run` yet, in chunks of `size`.

    At the end all are durable, and its state is `complete`.
    """

    def checkpoint() -> None:
        """Keep what is done, if it is that of the input that the record names."""
        codec.file.check_unchanged()
        run.checkpoint = writer.checkpoint()
        run.save()

    began = last = time.monotonic()
    before = run.counts.rows
    done = -(-before // size)  # chunks; rounded up: the last one may be shorter
    with closing(engine.score(islice(codec.file.raw_chunks(size), done, None), codec)) as chunks:
        for chunk in chunks:
            if strict and chunk.first_bad is not None:
                number, reason = chunk.first_bad
                raise (RunError if reason == NOT_FINITE else InputError)(
                    f"{codec.file.name}: row {number}: {reason}",
                    do="fix it, or omit --strict: the column error then marks such rows",
                )
            writer.append(chunk.data, chunk.counts.rows)
            run.counts.add(chunk.counts)
            now = time.monotonic()
            if progress is not None:
                rate = (run.counts.rows - before) / (now - began)
                items = "pairs" if codec.expansion is None else "rows"
                progress(run.counts.rows, f"{rate:,.0f} {items}/s on {engine.description}")
            if now - last >= checkpoint_seconds:
                checkpoint()
                last = now
    run.state = "complete"
    checkpoint()
