"""What every node of a Ray cluster is given to do, and whether it can: the versions, the bundle, the input, the output.

A node sees folders under the same path as the host of the command. Of URLs it makes copies of its own, with the
credentials in the environment in which Ray was started there.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertnli.common.errors import BertnliError, InputError
from bertnli.common.progress import say
from bertnli.common.urls import is_url
from bertnli.fetch.remote_files import StoredFile
from bertnli_export.bundle import Bundle
from bertnli_export.devices import Device
from bertnli_export.manifest import versions
from bertnli_export.ray_cluster import affinity, name_of, ray_reason
from bertnli_export.remote_bundle import manifest_sha256
from bertnli_export.score import VERSIONS

NODE_SECONDS = 120
"""So long a node may take to check what it sees. The first check starts a Python process there."""


@dataclass(frozen=True)
class Job:
    """What every worker is given. bundle: a path, or a URL. sha256: `Bundle.sha256`. `options` are those of
    `score_file`."""

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

    def check_bundle(self, sha256: str) -> None:
        """Raise InputError if this node does not see the driver's bundle."""
        if sha256 != self.sha256:
            do = "give every node the same one"
            raise InputError(f"{self.bundle}: not the same bundle as on the host of the command", do=do)


def check_nodes(nodes: Sequence[Mapping[str, Any]], job: Job, input: str, output: str) -> None:
    """Let every node check that it has and sees what the work needs.

    nodes: as `ray.nodes()` gives them. input: of one partition. output: the folder, or its URL. Raises InputError for
    the nodes that do not.
    """
    import ray

    with _probe(output) as probe:
        check_node = ray.remote(num_cpus=0)(_node_problem)
        asked = {
            check_node.options(scheduling_strategy=affinity(node["NodeID"])).remote(job, input, probe): node["NodeID"]
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
    if problems:
        raise InputError(
            "a node cannot take part: " + "; ".join(problems), do="fix this, or remove the node from the cluster"
        )


@contextmanager
def _probe(output: str) -> Iterator[str]:
    """The path or the URL of a new, empty file in the output folder, which is removed after the block."""
    probe = f"{output.rstrip('/')}/_bertnli-{uuid.uuid4().hex}"
    if not is_url(output):
        Path(probe).touch()
        try:
            yield probe
        finally:
            Path(probe).unlink(missing_ok=True)
        return
    file = StoredFile(probe)
    file.put_bytes(b"")
    try:
        yield probe
    finally:
        try:
            file.remove()
        except BertnliError as error:  # some credentials may write, and remove nothing
            say(f"an empty file stays there: {error}")


def _node_problem(job: Job, input: str, probe: str) -> str:
    """Runs on a node. The reason why it cannot take part; empty if it can."""
    try:
        job.check_versions()
        job.check_bundle(manifest_sha256(job.bundle) if is_url(job.bundle) else Bundle.open(job.bundle).sha256)
        for place, what in ((input, f"input {input}"), (probe, f"output folder {probe.rpartition('/')[0]}")):
            if not _sees(place):
                do = "give it the credentials and the endpoint that the host of the command has"
                return f"does not see the {what}; {do if is_url(place) else 'put it where every node sees it'}"
        if is_url(probe):
            StoredFile(probe).put_bytes(b"")  # what it may not write would be known after the first partition
    except BertnliError as error:
        return str(error)
    return ""


def _sees(place: str) -> bool:
    return StoredFile(place).version() is not None if is_url(place) else Path(place).exists()
