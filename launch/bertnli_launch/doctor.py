"""`bertnli doctor`: what this machine, or every host of a hostfile, has and lacks, and how to fix it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

from bertnli.common.errors import InputError
from bertnli.common.files import cache_dir
from bertnli.common.installed import installed
from bertnli.common.printable import printable
from bertnli.common.urls import is_url
from bertnli_launch import hostfile, probe
from bertnli_launch.preflight import DEFAULT_PORT, Facts, Needs, on_gpus, preflight

_GIB = 2**30


def doctor(
    hosts_file: str | None = None,
    *,
    include: str | None = None,
    exclude: str | None = None,
    env_file: str | None = None,
    master: str | None = None,
    port: int = DEFAULT_PORT,
    bundle: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Print what there is, and return it. Raises InputError if a host of the hostfile or the bundle has a problem.

    A package that is not installed here is not an error: the line shows the command that installs it.
    """
    found: dict[str, Any]
    if hosts_file is None:
        found = probe.facts(output=str(cache_dir()))
        for line in about_this_machine(found):
            print(printable(line))
    else:
        from bertnli_launch import job  # with all of a run file's checks

        hosts = hostfile.select(hostfile.read(hosts_file), include, exclude)
        result = preflight(hosts, Needs(), job.job_environment(os.environ, env_file), master=master, port=port)
        found = {"master": result.master, "hosts": result.facts}
    if bundle is not None:
        from bertnli_export.bundle import Bundle
        from bertnli_export.remote_bundle import local_bundle

        given = os.fspath(bundle)
        opened = Bundle.open(local_bundle(given, fresh=True) if is_url(given) else given)
        opened.check_files()
        opened.check_config()
        print(f"bundle {bundle}: complete; {len(opened.manifest.files)} files have the checksums of its manifest")
        found["bundle"] = str(bundle)
    return found


def about_this_machine(facts: Facts) -> Iterator[str]:
    """Lines of `WHAT: what there is; how to fix it`."""
    yield f"bertnli: {facts['bertnli']} on Python {facts['python']}"
    yield f"cores: {facts['cores']}; memory: {facts['memory'] / _GIB:.1f} GiB free"
    yield f"cache: {cache_dir()}, {facts['disk'] / _GIB:.1f} GiB free"
    yield f"GPUs: {facts['gpus'] or 'none: training and scoring run on the CPU'}"
    if facts["driver_problem"]:
        yield f"GPU driver: {facts['driver_problem']}"
    purposes = {"torch": "train", "deepspeed": "train", "onnxscript": "export"}
    have = installed(purposes)
    for package, purpose in purposes.items():
        need = f"not installed; to {purpose}: pip install 'bertnli[{purpose}]'"
        yield f"{package}: {have.get(package, need)}"
    if facts["torch"] and facts["gpus"] and not on_gpus(facts):
        yield f"torch: {facts['torch']} is built without CUDA and does not use the GPUs; install a build with CUDA"
    yield f"scoring: {_scoring_device()}"
    for tool, purpose in (("ssh", "openssh-client"), ("pdsh", "pdsh")):
        need = f"not installed; for jobs on many hosts: apt-get install {purpose}"
        yield f"{tool}: {shutil.which(tool) or need}"


def _scoring_device() -> str:
    from bertnli_export.devices import choose_device
    from bertnli_export.runtime import check_runtime

    try:
        check_runtime()
        return f"ONNX Runtime on {choose_device('auto')}"
    except InputError as error:
        return str(error)
