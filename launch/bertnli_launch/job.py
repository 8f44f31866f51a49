"""`bertnli launch`: a training job on many hosts, from the preflight to its end, through DeepSpeed's own launcher.

With pdsh one `deepspeed` command starts all hosts. Without it, ssh starts on each host what that command would start
there (`deepspeed.launcher.launch`). In both cases every rank runs `python -m bertnli.train`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import cache_dir, existing_path
from bertnli.common.progress import say_lines
from bertnli.common.safe_path import safe_path
from bertnli.families import folder_config
from bertnli.fetch.resolve import resolve_data, resolve_model
from bertnli.run.config import RunConfig
from bertnli.run.folder import RunFolder, run_of_job, steps_in
from bertnli.watch.ending import Ending
from bertnli.watch.key import key_file_of, new_key
from bertnli.watch.rank_env import JOB
from bertnli_launch import envfile, hostfile, shell
from bertnli_launch.hostfile import Hosts
from bertnli_launch.preflight import DEFAULT_PORT, Needs, preflight
from bertnli_launch.remote import RemoteHosts
from bertnli_launch.supervisor import Command, run_attempt


@dataclass(frozen=True)
class Job:
    """Everything that determines a job's commands.

    master, port: where rank 0 listens. environment: for every rank. arguments: of `python -m bertnli.train`. launcher:
    "pdsh" or "ssh".
    """

    hosts: Hosts
    master: str
    port: int
    environment: Mapping[str, str]
    arguments: Sequence[str]
    launcher: str


def launch(
    run_file: str,
    sets: Sequence[str] = (),
    *,
    hosts_file: str,
    include: str | None = None,
    exclude: str | None = None,
    env_file: str | None = None,
    master: str | None = None,
    port: int = DEFAULT_PORT,
    launcher: str | None = None,
    dry_run: bool = False,
    restarts: int = 0,
    min_hosts: int | None = None,
    more: Sequence[str] = (),
) -> int:
    """Check the run file and every host, then run the job to its end. Returns the exit code.

    more: further arguments for `bertnli.train`. dry_run: only print the commands. restarts: how often a job that fails
    is started again; it continues from its last checkpoint, on the hosts that still answer, if they are `min_hosts` or
    more (default: all). A job that a signal has stopped is not started again. Raises InputError for every problem that
    is found before anything starts.
    """
    hosts: Hosts = hostfile.select(hostfile.read(hosts_file), include, exclude)
    loaded = run_of_job(run_file, sets, sum(map(len, hosts.values())))
    config = loaded.config
    RunFolder(config.output).check(config)
    environment = job_environment(os.environ, env_file)
    # DeepSpeed passes its working folder to a shell without quotes, so it runs in /, and the ranks change to ours.
    arguments = ["--directory", str(Path.cwd()), run_file]
    arguments += [word for assignment in sets for word in ("--set", assignment)] + list(more)
    launcher = choose_launcher(launcher)
    if min_hosts is not None and not 1 <= min_hosts <= len(hosts):
        raise InputError("--min-hosts", found=str(min_hosts), expected=f"1 to {len(hosts)}, the number of hosts")
    first = next(iter(hosts))
    while True:
        named = master if next(iter(hosts)) == first else None  # another host does not have the first one's address
        checked = preflight(hosts, needs(config, run_file, loaded.deepspeed_file), environment, master=named, port=port)
        name = uuid.uuid4().hex
        variables = {
            **environment,
            **({} if dry_run else {JOB: name}),
            "DS_ACCELERATOR": "cuda" if checked.on_gpus else "cpu",  # without it DeepSpeed guesses, and warns
        }
        job = Job(hosts, checked.master, port, variables, arguments, launcher)
        files = _temporary_folder() / f"bertnli-launch-{name}"
        if dry_run:
            print(as_script(commands(job, files)))
            return 0
        key, secret = key_file_of(RunFolder(config.output).logs.absolute(), name), new_key().secret
        _write_key(key, secret, first=next(iter(hosts)), environment=environment)
        try:
            ending, shown, stopped = run_attempt(commands(job, files), hosts, environment, name, secret, _say)
        finally:
            shutil.rmtree(files, ignore_errors=True)
            with contextlib.suppress(OSError):
                key.unlink(missing_ok=True)  # where rank 0's watcher was killed; this host has the folder, too
        for line in _report(ending, shown, RunFolder(config.output)):
            _say(line)
        if not ending.failed or stopped or not restarts:
            return ending.code
        restarts -= 1
        hosts = _reachable(hosts, environment, len(hosts) if min_hosts is None else min_hosts)
        _say(f"starting again on {', '.join(hosts)}; {restarts} restarts are left after this one")


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise InputError(
            "no folder for temporary files can be written", found=error.strerror, do="set TMPDIR to one that can"
        ) from None


def _write_key(path: Path, secret: bytes, *, first: str, environment: Mapping[str, str]) -> None:
    """Give the ranks the job's key, in a file on their shared storage. Raises RunError.

    It goes through a probe's standard input: command lines, and variables on them, can be read by every user of a host.
    """
    with RemoteHosts([first], environment) as remotes:
        answer = remotes.ask("write_key", {first: {"path": str(path), "secret": secret.hex()}}).get(first, {})
        problem = answer.get("problem") or next((problem for _, problem in remotes.problems), None)
    if problem is not None:
        raise RunError(f"{first}: the job's key cannot be written to {path}", found=problem)


def _report(ending: Ending, shown: bool, folder: RunFolder) -> list[str]:
    """Lines for the user: the rank that ended the job, its error, and the command that continues the run."""
    if ending.code == 0:
        return []
    again = shlex.join(["bertnli", *sys.argv[1:]])
    steps = steps_in(folder.checkpoints)
    since = f"continues from step {steps[-1]}" if steps else "starts from the beginning, as there is no checkpoint"
    if ending.failed:
        return [
            str(ending),
            *([ending.text] if ending.text else []),
            f"output of all ranks: {folder.logs}",
            f"{since}: {again}",
        ]
    if ending.code == 2:
        return [] if shown else [ending.text or str(ending)]
    return [f"stopped; {since}: {again}"]


def _reachable(hosts: Hosts, environment: Mapping[str, str], least: int) -> Hosts:
    """The hosts that answer. Raises RunError if they are fewer than `least`."""
    with RemoteHosts(hosts, environment) as remotes:
        answers = remotes.ask("clock", {host: {} for host in hosts})
        gone = "; ".join(f"{host}: {problem}" for host, problem in remotes.problems)
    if len(answers) < least:
        raise RunError(f"{len(answers)} of {len(hosts)} hosts are left: {gone}", expected=f"{least} or more")
    return {host: slots for host, slots in hosts.items() if host in answers}


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone
        say_lines(f"bertnli launch: {line}")


def needs(config: RunConfig, run_file: str, deepspeed_file: str | None = None) -> Needs:
    """What the run needs on every host. Models and data that have names are fetched into this host's cache."""
    paths = {"run file": Path(run_file), "model": resolve_model(config.model, folder_config.parse).path}
    if config.teacher is not None:
        paths["teacher"] = resolve_model(config.teacher.model, folder_config.parse_classifier).path
    for source in (*config.data.sources("train"), *config.data.sources("eval")):
        path = resolve_data(source.name)
        paths[source.key] = Path(path if Path(path).exists() else path.rpartition("#")[0])  # FILE#member
    if deepspeed_file is not None:
        paths["deepspeed"] = Path(deepspeed_file)
    model = paths["model"]
    files = model.glob("*") if model.is_dir() else [model]
    weights = sum(file.stat().st_size for file in files if file.suffix in (".safetensors", ".bin", ".params", ".zip"))
    to_come = config.checkpoint.keep - len(steps_in(RunFolder(config.output).checkpoints))
    return Needs(
        paths={label: path.absolute() for label, path in paths.items()},
        output=Path(config.output).absolute(),
        # A checkpoint holds the weights and AdamW's two moments. While one is written there is one more than is kept.
        disk=3 * weights * (max(0, to_come) + 1),
        # Also the gradients, and what Python and torch need.
        memory=4 * weights + 2**30,
    )


def job_environment(environment: Mapping[str, str], env_file: str | None) -> dict[str, str]:
    """The environment of every rank: variables of this process that are passed on, then those of the env file.

    env_file: default: the files that DeepSpeed reads: DS_ENV_FILE, or .deepspeed_env in the home folder and here.
    """
    variables = safe_path(envfile.passed_on(environment))
    named = variables.pop("DS_ENV_FILE", None)
    variables["BERTNLI_CACHE"] = str(cache_dir())
    if env_file is not None or named is not None:
        return variables | envfile.read(str(env_file or named))
    for path in map(existing_path, ("~/.deepspeed_env", ".deepspeed_env")):
        if path is not None and path.is_file():
            variables |= envfile.read(path)
    return variables


def choose_launcher(named: str | None) -> str:
    """The launcher that is named; default: pdsh if it is installed, else ssh. Raises InputError if it is missing."""
    if named not in (None, "pdsh", "ssh"):
        raise InputError(f"--launcher {named}", expected="pdsh or ssh")
    if named == "pdsh" and shutil.which("pdsh") is None:
        raise InputError(
            "--launcher pdsh", found="pdsh is not installed here", do="apt-get install pdsh, or give --launcher ssh"
        )
    return named or ("pdsh" if shutil.which("pdsh") else "ssh")


def commands(job: Job, folder: Path) -> list[Command]:
    """The commands to start on this host, all at once. `folder` is where their files will be written."""
    rank = ["--module", "bertnli.train"]
    if job.launcher == "pdsh":
        shell.check_plain("the path of this Python", sys.executable)
        hosts, variables = folder / "hosts", folder / "environment"
        argv = [
            *(str(Path(sys.executable).parent / "deepspeed"), "--quiet", "--launcher", "pdsh"),
            *("--hostfile", str(hosts), "--include", hostfile.to_include(job.hosts)),
            *("--force_multi", "--no_ssh_check", "--master_addr", job.master, "--master_port", str(job.port)),
            *(*rank, *map(shell.deepspeed_argument, job.arguments)),
        ]
        environment = {"DS_ENV_FILE": str(variables), "DS_ACCELERATOR": job.environment["DS_ACCELERATOR"]}
        environment["PDSH_SSH_ARGS_APPEND"] = shlex.join(shell.SSH[1:])
        files = {hosts: hostfile.to_text(job.hosts), variables: shell.deepspeed_env_file(job.environment)}
        return [Command(argv, environment, files, None)]
    world = json.dumps({host: list(slots) for host, slots in job.hosts.items()}).encode()
    started = []
    for number, host in enumerate(job.hosts):
        argv = [
            *(sys.executable, "-u", "-m", "deepspeed.launcher.launch"),
            *(f"--world_info={base64.urlsafe_b64encode(world).decode()}", f"--node_rank={number}"),
            *(f"--master_addr={job.master}", f"--master_port={job.port}", *rank, *job.arguments),
        ]
        started.append(Command(shell.over_ssh(host, argv, job.environment), {}, {}, host))
    return started


def as_script(started: Sequence[Command]) -> str:
    """A shell script that does the same: it writes the files (host list, environment) and runs the commands."""
    lines = []
    for command in started:
        for path, text in command.files.items():
            lines += [
                f"mkdir -p {shlex.quote(str(path.parent))}",
                f"cat > {shlex.quote(str(path))} <<'END'",
                f"{text}END",
            ]
        settings = "".join(f"{name}={shlex.quote(value)} " for name, value in command.environment.items())
        lines.append(f"(cd / && {settings}{shlex.join(command.argv)}){' &' * (len(started) > 1)}")
    return "\n".join([*lines, *["wait"] * (len(started) > 1)])
