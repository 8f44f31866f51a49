"""`bertnli score --ray`: a folder of files to a folder of the same files with scores, on the nodes of a Ray cluster.

A file, called a partition here (partitions.py), is the unit of work. Ray Data assigns partitions to workers, each with
a loaded Scorer. A worker calls `score.score_file` as on a single machine, so rows, records, resuming and renames are
the same code. If a worker dies, Ray gives its partition to another one, which resumes from the partition's record.

Input, output and bundle are on storage that every node sees under the same path, and that has locks (flock); or they
are URLs. The work of an output that is a URL is on the node's disk (remote_output.py), so another node starts it again.
"""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from bertnli.common.errors import BertnliError, InputError, Interrupted, RunError, first_line
from bertnli.common.urls import is_url
from bertnli.data.dialect import Dialect
from bertnli.data.pairs import Columns
from bertnli.fetch.remote_files import passing_copy
from bertnli_export.bundle import Bundle
from bertnli_export.devices import DEVICES
from bertnli_export.expansion import Expansion
from bertnli_export.label_counts import LabelCounts
from bertnli_export.manifest import versions
from bertnli_export.new_bundle import check_outside
from bertnli_export.output_file import BusyError
from bertnli_export.partitions import Partition, find_partitions
from bertnli_export.ray_cluster import affinity, choose_nodes, connected, cores_each, name_of, ray_reason
from bertnli_export.ray_job import Job, check_nodes
from bertnli_export.remote_bundle import local_bundle
from bertnli_export.score import VERSIONS, Progress, score_file
from bertnli_export.scorer import Scorer
from bertnli_export.scoring_setup import choose_temperature, choose_threshold, prepare

__all__ = ["Partition", "find_partitions", "score_partitions"]

BUSY_SECONDS = 120
"""So long a worker waits for another that still holds its partition, such as one whose death is not noticed yet."""
_NOTES = 10  # of how partitions are read, so many are shown
ATTEMPTS = 5
"""So many workers may die while they score one partition. Then it counts as failed, because it may be the cause."""


class _Result(NamedTuple):
    """Of a partition: its summary, or an error with its exit code (0: a bug; the error is its traceback)."""

    partition: str
    node: str
    summary: dict[str, Any]
    error: str
    exit_code: int


def score_partitions(
    bundle: str | os.PathLike[str],
    partitions: Sequence[Partition],
    output: str | os.PathLike[str],
    address: str,
    *,
    device: str = "auto",
    strict: bool = False,
    restart: bool = False,
    columns: Columns | None = None,
    prefix: str = "",
    dialect: Dialect | None = None,
    expansion: Expansion | None = None,
    temperature: float | None = None,
    threshold: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score every partition; options as in `score_file`. `progress` gets the number of partitions done.

    bundle: a folder that every node sees, or a URL, of which every node makes a copy. output: the folder, or its URL.
    address: of the cluster, as for `ray.init`: `HOST:PORT`, `auto` (the cluster that this machine is a node of) or
    `local` (a cluster for this call). device: `auto` is `cuda` if the cluster has GPUs. A worker has one GPU; or one
    CPU, and more if there are fewer partitions than CPUs.

    The same call continues with what is unfinished. If a partition fails, the others are finished all the same, except
    with `strict`, which stops at the first failure.

    Returns the summary: `output`; `rows`, `errors`, `truncated`, `labelled` and `accuracy` or `no_accuracy` as in
    `score_file`; `device`; `partitions`; `nodes`, the number of those that scored any; `load_seconds`, the longest
    of a worker; `pairs_per_second`: rows of this run, from assigning the first partition to the last result,
    without loading; `already_finished`; `notes`, the first ones on how partitions are read, if there are any.

    Raises InputError if no cluster answers, or if a node lacks the versions, the bundle or the folders; RunError if
    partitions failed, each named with its node (InputError if all of these have a wrong input); Interrupted, with
    advice on how to continue.
    """
    if device not in DEVICES:
        raise InputError("--device", found=repr(device), expected=" or ".join(DEVICES))
    url, output = os.fspath(bundle), os.fspath(output)
    opened = Bundle.open(local_bundle(url) if is_url(url) else Path(bundle).absolute())
    opened.check_files()
    opened.check_config()
    folder = None if is_url(output) else Path(output).absolute()
    if folder is not None:
        check_outside(folder)
    choose_temperature(opened, temperature)
    choose_threshold(opened, threshold)
    if expansion is not None:
        expansion.check(opened.outputs, opened.tokenizer())
    with connected(address):
        chosen, nodes = choose_nodes(device, address)
        opened.check_device(chosen)
        each, threads = ("GPU", 1) if chosen.kind == "cuda" else ("CPU", cores_each(nodes, len(partitions)))
        workers = sum(int(node["Resources"][each]) // threads for node in nodes)
        options: dict[str, Any] = {"strict": strict, "restart": restart, "columns": columns, "prefix": prefix}
        options |= {"dialect": dialect, "expansion": expansion}
        known = versions(VERSIONS)
        place = url if is_url(url) else str(opened.place)
        job = Job(place, opened.sha256, known, chosen, threads, temperature, threshold, options)
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            check_nodes(nodes, job, partitions[0].input, output if folder is None else str(folder))
            for partition in partitions if folder is not None else ():
                Path(partition.output).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{output}: cannot be written ({first_line(error)})", do="give another OUTPUT") from None

        began = time.perf_counter()
        results: dict[str, _Result] = {}
        rows, nodes_used = 0, set()
        try:
            for result in _run_partitions(job, partitions, min(workers, len(partitions))):
                results[result.partition] = result
                if strict and result.error:
                    break
                rows += _rows_of_this_run(result)
                nodes_used.add(result.node)
                if progress is not None:
                    rate = rows / (time.perf_counter() - began)
                    items = "pairs" if expansion is None else "rows"
                    note = f"{rate:,.0f} {items}/s on {len(nodes_used)} node{'s' if len(nodes_used) > 1 else ''}"
                    progress(len(results), note)
        except Interrupted as stop:
            finished = sum(not result.error for result in results.values())
            raise Interrupted(
                stop.exit_code - 128,
                f"scoring was stopped; {finished} of {len(partitions)} partitions are finished",
                do="give the same command again, without --restart, to continue",
            ) from None
        seconds = time.perf_counter() - began
        _raise_failures(results, partitions)

    parts = [result.summary for result in results.values()]
    labels = LabelCounts()
    for part in parts:
        labels.add(LabelCounts.of_summary(part))
    notes = [note for part in parts for note in part.get("notes", ())][:_NOTES]
    load_seconds = max(part["load_seconds"] for part in parts)
    return {
        "output": output,
        **{name: sum(part[name] for part in parts) for name in ("rows", "errors", "truncated")},
        **labels.summary(),
        "device": chosen.kind,
        "partitions": len(parts),
        "nodes": len(nodes_used),
        "load_seconds": load_seconds,
        "pairs_per_second": rows / (seconds - load_seconds),
        "already_finished": all(part["already_finished"] for part in parts),
        **({"notes": notes} if notes else {}),
    }


def _rows_of_this_run(result: _Result) -> int:
    part = result.summary
    return 0 if not part or part["already_finished"] else part["rows"] - part["resumed_at"]


def _run_partitions(job: Job, partitions: Sequence[Partition], workers: int) -> Iterator[_Result]:
    """The result of each partition, as they come."""
    import ray.data

    # Off: the command reports progress and errors itself.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    rows = [partition._asdict() for partition in partitions]
    resources: dict[str, Any] = {"num_gpus": 1} if job.device.kind == "cuda" else {"num_cpus": job.threads}
    attempts = ray.remote(num_cpus=0)(_Attempts).options(
        scheduling_strategy=affinity(ray.get_runtime_context().get_node_id())
    )
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _PartitionWorker,  # type: ignore[arg-type]  # Ray Data also takes classes
        fn_constructor_args=(job, attempts.remote()),
        # One task in flight: a worker that is free takes the next partition.
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        **resources,
    )
    try:
        for row in dataset.iter_rows():
            yield _Result(**row | {"summary": json.loads(row["summary"])})
    except ray.exceptions.RayError as error:
        raise RunError(
            f"the cluster failed: {ray_reason(error)}",
            do="give the same command again, without --restart: what is done is kept",
        ) from error


class _Attempts:
    """An actor beside the driver that counts how often each partition was started.

    Ray itself retries without limit, and also counts calls that fail because a dead node is not known to be dead yet.

    It also knows which partitions have rows of this run, so that `restart` does not discard them when a worker dies.
    """

    def __init__(self) -> None:
        self._started: Counter[str] = Counter()
        self._with_rows: set[str] = set()

    def start(self, partition: str) -> int:
        self._started[partition] += 1
        return self._started[partition]

    def note_rows(self, partition: str) -> None:
        self._with_rows.add(partition)

    def has_rows(self, partition: str) -> bool:
        return partition in self._with_rows


class _PartitionWorker:
    """Ray Data keeps it in a process of its own, and calls it with one partition after another.

    attempts: a handle of an `_Attempts` actor.
    """

    def __init__(self, job: Job, attempts: Any):
        if job.device.kind == "cpu":
            os.environ["RAYON_NUM_THREADS"] = str(job.threads)  # Rayon runs the tokenizer, by default on every core
        self._job, self._attempts = job, attempts
        self._scorer: Scorer | None = None

    def __call__(self, row: Mapping[str, str]) -> dict[str, Any]:
        """A `_Result` with its summary as JSON, because the values of a Ray Data column have one type."""
        import ray

        summary, error, exit_code = {}, "", 0
        try:
            if ray.get(self._attempts.start.remote(row["input"])) > ATTEMPTS:
                raise RunError(
                    f"{ATTEMPTS} workers died while they scored it",
                    do="look at the memory of their nodes and Ray's log",
                )
            summary = self._score(row["input"], row["output"])
        except BertnliError as expected:
            error, exit_code = str(expected), expected.exit_code
        except Exception:
            error = traceback.format_exc()
        node = ray.get_runtime_context().get_node_id()
        return _Result(row["input"], node, json.dumps(summary), error, exit_code)._asdict()  # type: ignore[arg-type]

    def _score(self, input: str, output: str) -> dict[str, Any]:
        load_seconds = 0.0
        if self._scorer is None:
            began = time.perf_counter()
            self._job.check_versions()
            # The kind of device is decided. `prepare` finds out whether this node can use it.
            setup = prepare(
                self._job.bundle, str(self._job.device), self._job.temperature, threshold=self._job.threshold
            )
            self._job.check_bundle(setup.bundle.sha256)
            self._scorer = Scorer.from_setup(setup, threads=self._job.threads)
            load_seconds = time.perf_counter() - began
        options = {**self._job.options, **self._restart_once(input)}
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with passing_copy(input, BUSY_SECONDS) if is_url(input) else nullcontext():
                    return score_file(self._scorer, input, output, **options) | {"load_seconds": load_seconds}
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def _restart_once(self, input: str) -> dict[str, Any]:
        """Options that discard what earlier runs left of a partition, but nothing that this run has done of it."""
        if not self._job.options["restart"]:
            return {}
        import ray

        if ray.get(self._attempts.has_rows.remote(input)):
            return {"restart": False}
        return {"progress": lambda rows, note: self._attempts.note_rows.remote(input)}


def _raise_failures(results: Mapping[str, _Result], partitions: Sequence[Partition]) -> None:
    """One error for all partitions that failed; it names the first few."""
    failed = [result for result in results.values() if result.error]
    failures = [f"{result.partition} on {name_of(result.node)}: {result.error}" for result in failed]
    codes = {result.exit_code for result in failed}
    if 0 in codes:
        raise RuntimeError("\n".join(failures))
    if failures:
        shown = "; ".join(failures[:5]) + (f"; and {len(failures) - 5} more" if len(failures) > 5 else "")
        raise (InputError if codes == {InputError.exit_code} else RunError)(
            f"{len(failures)} of {len(partitions)} partitions failed: {shown}",
            do="what is done is kept: give the same command again, without --restart, to continue",
        )
