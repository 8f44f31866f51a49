"""`bertnli score --ray`: a folder of files to a folder of the same files with scores, on the nodes of a Ray cluster.

A file, called a partition here, is the unit of work. Ray Data assigns partitions to workers, each with a loaded Scorer.
A worker calls `score.score_file` as on a single machine, so rows, records, resuming and renames are the same code. If a
worker dies, Ray gives its partition to another one, which resumes from the partition's record.

Input, output and bundle are on storage that every node sees under the same path, and that has locks (flock).
"""

from __future__ import annotations

import glob
import itertools
import json
import logging
import os
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bertnli.common.errors import BertnliError, InputError, Interrupted, RunError, first_line
from bertnli.common.urls import is_url
from bertnli.data.dialect import Dialect
from bertnli.data.formats import format_of
from bertnli.data.pairs import Columns
from bertnli_export.bundle import Bundle
from bertnli_export.devices import DEVICES, Device
from bertnli_export.expansion import Expansion
from bertnli_export.label_counts import LabelCounts
from bertnli_export.manifest import versions
from bertnli_export.new_bundle import check_outside
from bertnli_export.output_file import BusyError
from bertnli_export.ray_cluster import affinity, choose_nodes, connected, cores_each, name_of, ray_reason
from bertnli_export.score import VERSIONS, Progress, score_file
from bertnli_export.scorer import Scorer
from bertnli_export.scoring_setup import choose_temperature, choose_threshold, prepare

NODE_SECONDS = 120
"""So long a node may take to check the bundle and the folders. The first check starts a Python process there."""
BUSY_SECONDS = 120
"""So long a worker waits for another that still holds its partition, such as one whose death is not noticed yet."""
_NOTES = 10  # of how partitions are read, so many are shown
ATTEMPTS = 5
"""So many workers may die while they score one partition. Then it counts as failed, because it may be the cause."""


class Partition(NamedTuple):
    input: Path
    output: Path


# ------------------------------------------------------------------------------------------------- which partitions


def find_partitions(input: str | os.PathLike[str], output: str | os.PathLike[str]) -> list[Partition]:
    """The files of a folder and its subfolders, or those that a glob matches; the largest first.

    The output of each has the same name and the same subfolders in `output`; that of an Arrow file is Parquet. Names
    that begin with `.` or `_` are ignored.

    Raises InputError if there are none, if one has an unknown format, or if `output` holds data of other partitions.
    """
    for place in (input, output):
        if is_url(os.fspath(place)):
            raise InputError(
                f"{place}: a URL with --ray",
                expected="a folder that every node sees",
                do="mount it, or score its files one by one: without --ray INPUT and OUTPUT may be URLs",
            )
    base, target = Path(input).absolute(), Path(output).absolute()
    if base.is_dir():
        pattern = str(Path(glob.escape(str(base)), "**"))
    else:
        pattern = str(base)
        base = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), base.parent.parts))
    files = _visible(pattern, base)
    if not files:
        raise InputError(
            f"{input}: no partition files", expected="a folder of files, or a glob as in 'parts/*.parquet'"
        )
    if target.exists() and not target.is_dir():
        raise InputError(f"{output}: a file", expected="with --ray, a folder")
    if target.resolve().is_relative_to(Path(input).resolve()) or any(path.is_relative_to(target) for path in files):
        raise InputError(f"{output}: is inside the input", do="name a folder outside of it")
    for path in files:
        if not _is_data(path):
            raise InputError(
                f"{path}: unknown format",
                expected=".tsv, .csv or .jsonl (also with .gz or .zst), .parquet or .arrow",
                do="exclude it with a glob, as in 'parts/*.parquet'",
            )
    files.sort(key=lambda path: (-path.stat().st_size, path))
    partitions = [Partition(path, target / _output_name(path.relative_to(base))) for path in files]
    ours = {partition.output: partition.input for partition in partitions}
    for path, output_path in partitions:
        if path != ours[output_path]:
            raise InputError(f"{path}: has the same output as {ours[output_path]}", do="give one of them another name")
    for path in _visible(str(Path(glob.escape(str(target)), "**")), target):
        if path not in ours and _is_data(path) and ".partial" not in path.name:
            raise InputError(
                f"{path}: no partition of the input has this output", do="remove it, or name another output folder"
            )
    return partitions


def _output_name(path: Path) -> Path:
    """Scores are not written as Arrow, but as Parquet, which holds the same types."""
    return path.with_suffix(".parquet") if format_of(path.name).kind == "arrow" else path


def _visible(pattern: str, base: Path) -> list[Path]:
    """The files that programs which read a folder as a data set see."""
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))  # noqa: PTH207 Path.glob follows no links
    return [
        path
        for path in found
        if path.is_file() and not any(part.startswith((".", "_")) for part in path.relative_to(base).parts)
    ]


def _is_data(path: Path) -> bool:
    try:
        return bool(format_of(path.name))
    except InputError:
        return False


# --------------------------------------------------------------------------------------------------------- the work


@dataclass(frozen=True)
class _Job:
    """What every worker is given. `options` are those of `score_file`."""

    bundle: str
    sha256: str
    versions: Mapping[str, str]
    device: Device
    threads: int
    temperature: float | None
    threshold: float | None
    options: Mapping[str, Any]

    def check_versions(self) -> None:
        """Raise InputError if this node does not have the driver's versions."""
        found = versions(VERSIONS)
        for package in {**self.versions, **found}:
            if self.versions.get(package) != found.get(package):
                raise InputError(
                    f"package {package}",
                    found=found.get(package, "none"),
                    expected=self.versions.get(package, "none") + ", as on the host of the command",
                    do="install the same versions on every node",
                )

    def check_bundle(self, found: Bundle) -> None:
        """Raise InputError if this node does not see the driver's bundle."""
        if found.sha256 != self.sha256:
            raise InputError(
                f"{self.bundle}: not the same bundle as on the host of the command",
                do="put it where every node sees the same one",
            )


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
    if is_url(os.fspath(bundle)):
        do = "copy it to where every node sees it"
        raise InputError(f"{bundle}: a URL with --ray", expected="a folder that every node sees", do=do)
    opened, folder = Bundle.open(Path(bundle).absolute()), Path(output).absolute()
    opened.check_files()
    opened.check_config()
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
        job = _Job(str(opened.place), opened.sha256, known, chosen, threads, temperature, threshold, options)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_nodes(nodes, job, partitions[0].input, folder)
            for partition in partitions:
                partition.output.parent.mkdir(parents=True, exist_ok=True)
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
        "output": os.fspath(output),
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


def _run_partitions(job: _Job, partitions: Sequence[Partition], workers: int) -> Iterator[_Result]:
    """The result of each partition, as they come."""
    import ray.data

    # Off: the command reports progress and errors itself.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    rows = [{"input": str(partition.input), "output": str(partition.output)} for partition in partitions]
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

    def __init__(self, job: _Job, attempts: Any):
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
            self._job.check_bundle(setup.bundle)
            self._scorer = Scorer.from_setup(setup, threads=self._job.threads)
            load_seconds = time.perf_counter() - began
        options = {**self._job.options, **self._restart_once(input)}
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
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


# ------------------------------------------------------------------------------------------------------ the nodes


def _check_nodes(nodes: Sequence[Mapping[str, Any]], job: _Job, input: Path, output: Path) -> None:
    """Let every node check that it has and sees what the work needs. Raises InputError for those that do not."""
    import ray

    probe = output / f"_bertnli-{uuid.uuid4().hex}"
    probe.touch()
    try:
        check_node = ray.remote(num_cpus=0)(_node_problem)
        asked = {
            check_node.options(scheduling_strategy=affinity(node["NodeID"])).remote(job, str(input), str(probe)): node[
                "NodeID"
            ]
            for node in nodes
        }
        ray.wait(list(asked), num_returns=len(asked), timeout=NODE_SECONDS)
        problems = []
        for answer, node in asked.items():
            try:
                problem = ray.get(answer, timeout=0)
            except ray.exceptions.TaskUnschedulableError:
                continue  # the node has died
            except ray.exceptions.GetTimeoutError:
                problem = f"no answer in {NODE_SECONDS} seconds"
            except ray.exceptions.RayError as error:
                problem = ray_reason(error)
            if problem:
                problems.append(f"{name_of(node)}: {problem}")
    finally:
        probe.unlink(missing_ok=True)
    if problems:
        raise InputError(
            "a node cannot take part: " + "; ".join(problems), do="fix this, or remove the node from the cluster"
        )


def _node_problem(job: _Job, input: str, probe: str) -> str:
    """Runs on a node. The reason why it cannot take part; empty if it can."""
    try:
        job.check_versions()
        job.check_bundle(Bundle.open(job.bundle))
    except InputError as error:
        return str(error)
    for path, what in ((Path(input), "input"), (Path(probe), "output folder")):
        if not path.exists():
            return (
                f"does not see the {what} {path if what == 'input' else path.parent}; put it where every node sees it"
            )
    return ""
