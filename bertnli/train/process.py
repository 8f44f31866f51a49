"""The process of a rank: `python -m bertnli.train RUN.yaml`, started by a launcher with RANK and related variables.

That process becomes the rank's watcher (watch/watcher.py) and starts the training process: this module once more, which
sends heartbeats. Without RANK there is one rank only, and no watcher.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bertnli.common import heartbeat, memory, standard_streams
from bertnli.common.cores import spin_briefly, usable_cores
from bertnli.common.errors import InputError, Interrupted, ReportedElsewhere
from bertnli.common.for_user import as_told
from bertnli.common.imports import quick_imports
from bertnli.common.installed import need
from bertnli.common.network import set_interfaces
from bertnli.common.progress import say_lines
from bertnli.run.folder import RunFolder, run_of_job
from bertnli.watch.rank_env import local_world_size, set_rank_variables

if TYPE_CHECKING:
    from bertnli.watch.rank_env import Rank


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or watch the process that does. Returns the exit code."""
    standard_streams.protect()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(arguments)
    except InputError as error:
        say_lines(f"bertnli train: {error}")
        return error.exit_code
    heartbeat.start()
    spin_briefly(os.environ)
    rank = None
    try:
        set_rank_variables(os.environ)
        if "RANK" in os.environ and not heartbeat.watched():
            from bertnli.watch.rank_env import Rank, note_of_rank

            rank = Rank(os.environ)
            if note := note_of_rank(os.environ):
                say_lines(f"bertnli train: {note}")
    except InputError as error:
        say_lines(f"bertnli train: {error}")
        return error.exit_code
    if heartbeat.watched():
        _train_and_exit(options)
    try:
        return _train(options) if rank is None else _watch(rank, options, arguments)
    except KeyboardInterrupt:  # before there is anything to save, or a second one
        return 130


def parser() -> argparse.ArgumentParser:
    """The options of `python -m bertnli.train`."""
    parser = argparse.ArgumentParser(
        prog="python -m bertnli.train", description="Fine-tune as a run file says.", allow_abbrev=False
    )
    parser.add_argument("run_file", metavar="RUN.yaml", nargs="?")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--directory", default=".", help="change to this folder first: relative paths start there")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object on the last line")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    # as in programs for DeepSpeed: `--deepspeed FILE`, and `--deepspeed --deepspeed_config FILE`
    parser.add_argument("--deepspeed", nargs="?", metavar="FILE", help="--set deepspeed=FILE, before other --set")
    parser.add_argument("--deepspeed_config", "--deepspeed-config", metavar="FILE", help="the same")
    # from DeepSpeed's launcher and from torch.distributed.launch
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="ignored: LOCAL_RANK is used")
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises InputError for an option of another program; exits as argparse does for what nobody has."""
    known = parser()
    options, unknown = known.parse_known_args(arguments)
    for option in (word.partition("=")[0] for word in unknown if word.startswith("-")):
        from bertnli.run import foreign_options

        if (refused := foreign_options.refused(foreign_options.MODULE, option)) is not None:
            raise refused
    if unknown:
        known.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.run_file is None:
        known.error("the following arguments are required: RUN.yaml")
    return options


def sets_of(options: argparse.Namespace) -> list[str]:
    """The `--set` of the options, after what `--deepspeed` stands for."""
    file = options.deepspeed_config or options.deepspeed
    return [*([] if file is None else [f"deepspeed={json.dumps(file)}"]), *options.sets]


def _watch(rank: Rank, options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from bertnli.watch.watcher import refuse, watch

    try:
        with contextlib.chdir(options.directory):
            config = run_of_job(options.run_file, sets_of(options), rank.world).config
            RunFolder(config.output).check(config)
            logs = RunFolder(config.output).logs.absolute()
        _make(logs)
    except InputError as error:
        return refuse(rank, error)
    except OSError as error:
        problem = f"--directory {options.directory}: {error.strerror}"
        return refuse(rank, InputError(problem, do="name one that every host has"))
    trainer = [sys.executable, "-m", "bertnli.train.process", *arguments]
    return watch(rank, trainer, logs, config.stall_timeout)


def _make(logs: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output {logs.parent}: cannot be written", found=error.strerror, do="give another output"
        ) from None


def _train_and_exit(options: argparse.Namespace) -> NoReturn:
    """Train, then call os._exit once everything is on disk: torch's threads can abort or hang a normal shutdown."""
    try:
        code = _train(options)
    except KeyboardInterrupt:  # before there is anything to save
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _train(options: argparse.Namespace) -> int:
    group = None
    try:
        os.chdir(options.directory)
        loaded = run_of_job(options.run_file, sets_of(options), int(os.environ.get("WORLD_SIZE", "1")))
        config = loaded.config
        _share_the_host()
        need("torch", "train")
        need("deepspeed", "train")
        memory.require(1100)  # what torch, DeepSpeed and their threads take, before any weight
        if config.deterministic:  # cuBLAS reads it when it starts; torch refuses deterministic products without it
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        with quick_imports():
            from bertnli.train.loop import ProcessGroup, train  # torch takes seconds to load

        group = ProcessGroup()
        for note in loaded.notes if group.rank == 0 else ():
            say_lines(note)
        summary = train(config, group, say=say_lines if group.rank == 0 else lambda line: None)
        if group.rank == 0:
            _print_summary(summary, options.json)
        if not heartbeat.watched():
            group.close()
        return 0
    except (Exception, Interrupted) as error:
        told = as_told(error)
        if told is None or options.debug:
            raise
        silent = isinstance(told, ReportedElsewhere) or (isinstance(told, Interrupted) and group and group.rank)
        if not silent:
            say_lines("\n".join([f"bertnli train: {told}", *getattr(error, "__notes__", [])]))
        return told.exit_code


def _share_the_host() -> None:
    """Divide the cores among the ranks of this host, and choose the network interface that reaches the master."""
    here = local_world_size(os.environ)
    set_interfaces(os.environ, one_host=here == int(os.environ.get("WORLD_SIZE", "1")))
    if here > 1:
        threads = os.environ.get("SLURM_CPUS_PER_TASK") or str(max(1, usable_cores() // here))
        os.environ.setdefault("OMP_NUM_THREADS", threads)


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    """For the user; with `as_json` also as one JSON object on the last line of standard output."""
    print(f"model: {summary['model']}")
    for name in ("accuracy", "average_precision", "spearman"):  # the first of them is what the run is compared by
        if summary.get(f"eval_{name}") is not None:
            print(f"held-out {name.replace('_', ' ')}: {summary[f'eval_{name}']:.4f} on {summary['eval_rows']:,} pairs")
            break
    print(f"training: {summary['steps']} steps, {summary['pairs_per_second']:.1f} pairs/s")
    print(f"next: {summary['next']}")
    if as_json:
        print(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main())
