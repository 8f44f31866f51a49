"""What the tests share: the real SNLI rows where they are at hand, and a cache that is nobody's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest

from bertnli.common.cores import spin_briefly
from tests.support import tiny

# The tests' models are tiny, and the workers of pytest-xdist share the cores: more threads would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
spin_briefly(os.environ)

# Property tests have few examples here and many in test_properties_system.py, the same ones in every run: so a failure
# comes from a change. `pytest tests -m hypothesis --hypothesis-profile=explore` draws new ones.
# A slow machine is no failure, and the fixtures that they use do not change from example to example.
_EVERY_PROFILE: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
}
hypothesis.settings.register_profile("quick", max_examples=15, derandomize=True, **_EVERY_PROFILE)
hypothesis.settings.register_profile("many", max_examples=30, derandomize=True, **_EVERY_PROFILE)
hypothesis.settings.register_profile("explore", max_examples=500, **_EVERY_PROFILE)
hypothesis.settings.load_profile("quick")

# Tests of GPU code have stand-ins; whether this machine has a GPU changes nothing.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# Ignored as nohup or a script's & has it, a signal would be ignored by what the tests start and send it to as well.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

# the fixtures of training runs, on one host and on several
pytest_plugins = ["tests.support.runs", "tests.support.clusterruns"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [ROOT / "bertnli", ROOT / "export" / "bertnli_export", ROOT / "launch" / "bertnli_launch"]
SOURCES = os.pathsep.join(str(package.parent) for package in PACKAGES)  # as PYTHONPATH takes them


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are not shown: gzip data have the time in them, and all workers must collect tests of the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_configure(config: pytest.Config) -> None:
    config.add_cleanup(tiny.begin_run())  # xdist's workers are within the run of the process that started them


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist loadfile all tests that make hosts are for one worker: two sets of hosts on two cores would be slow,
    and a slow host can look like a dead one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class FilesAndHosts(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "hosts" if file.startswith("tests/launch/") else file

    return FilesAndHosts(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: (item.path.parent.name != "launch", item.path.name != "test_demo_system.py"))


@pytest.fixture
def shared_data() -> Path:
    """The folder with real SNLI rows: BERTNLI_TEST_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("BERTNLI_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "snli_1.0").is_dir():
        pytest.skip("real SNLI rows are not at hand: name their folder in BERTNLI_TEST_DATA")
    return folder


@pytest.fixture
def cases(shared_data: Path) -> Path:
    """The folder with files that people brought, beside that of the real rows."""
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip("the cases are not at hand: BERTNLI_TEST_DATA names the folder beside theirs")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's cache."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BERTNLI_CACHE", str(cache))
    return cache


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a child: with the repository importable, without the ranks that a test joined."""
    ours = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    return {**{name: value for name, value in os.environ.items() if name not in ours}, "PYTHONPATH": SOURCES, **more}


def command_line(process: psutil.Process) -> list[str]:
    """Empty for a process that is gone, or ended and not asked about (a zombie)."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # psutil's ZombieProcess is one
        return []


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bertnli(tmp_path: Path) -> Run:
    """Runs the command as a user would, in `tmp_path`: `bertnli("train", "run.yaml", env={…})`."""

    def run(
        *arguments: object, env: dict[str, str] | None = None, **options: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload, no-any-return]
            [sys.executable, "-m", "bertnli.cli", *map(str, arguments)],
            **{"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 240, **options},
            env=environment(**(env or {})),
        )

    return run
