"""How an ending is described, and which of several endings caused the others."""

from __future__ import annotations

import signal

import pytest

from bertnli.watch.ending import Ending, error_text, root_cause

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: no'
PEER = "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:1"


def ended(rank: int, code: int, text: str = "") -> Ending:
    return Ending(rank, "a", code, "ended", text)


@pytest.mark.parametrize(
    ("returncode", "stopped_by", "code", "how", "failed"),
    [
        (0, 0, 0, "ended with exit code 0", False),
        (1, 0, 1, "ended with exit code 1", True),
        (2, 0, 2, "ended with exit code 2", False),
        (143, 0, 143, "ended with exit code 143", False),
        (-9, 0, 137, "was killed by SIGKILL (by a user, or by the kernel when memory ran out", True),
        (-11, 0, 139, "was killed by SIGSEGV", True),
        (-2, signal.SIGINT, 130, "was stopped by SIGINT", False),
        (130, signal.SIGINT, 130, "was stopped by SIGINT", False),
        (-15, signal.SIGTERM, 143, "was stopped by SIGTERM", False),
        (-9, signal.SIGINT, 130, "was stopped by SIGINT", False),  # it came a second time
        (-9, signal.SIGTERM, 137, "was killed by SIGKILL", True),
        (1, signal.SIGTERM, 1, "ended with exit code 1", True),  # its last checkpoint could not be written
        (0, signal.SIGTERM, 0, "ended with exit code 0", False),  # it came too late to stop anything
    ],
)
def test_from_a_return_code(returncode, stopped_by, code, how, failed):
    ending = Ending.of_process(3, "b", returncode, stopped_by, "")
    assert (ending.code, ending.failed) == (code, failed)
    assert str(ending).startswith(f"rank 3 on b {how}")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("step 1\n" + TRACEBACK + "\n", TRACEBACK),
        (TRACEBACK + "\nDuring handling:\n" + TRACEBACK + "\n", TRACEBACK),
        ("step 1\nbertnli train: step 2: the loss is nan\n", "bertnli train: step 2: the loss is nan"),
        ("".join(f"line {number}\n" for number in range(30)), "\n".join(f"line {number}" for number in range(20, 30))),
        ("", ""),
    ],
)
def test_error_text(output, words):
    assert error_text(output) == words


@pytest.mark.parametrize(
    ("endings", "rank"),
    [
        ([ended(1, 1, TRACEBACK), ended(0, 137)], 1),  # the first to come to light
        ([ended(0, 1, PEER), ended(1, 1, PEER), ended(2, 137)], 2),
        ([ended(0, 1, PEER), ended(1, 1, PEER)], 0),
        ([ended(0, 2), ended(3, 2, "bertnli train: key model is missing")], 3),  # the one that says what is wrong
        ([ended(0, 1, PEER), ended(2, 2, "bertnli train: no device")], 2),
    ],
)
def test_the_root_cause(endings, rank):
    assert root_cause(endings).rank == rank


@pytest.mark.parametrize(
    "text",
    [
        PEER,
        "torch.distributed.DistBackendError: NCCL error in: x, remote process exited or there was a network error",
        "torch.distributed.DistNetworkError: failed to recv, got 0 bytes",
        "RuntimeError: [gloo/transport/tcp/buffer.cc] Connection reset by peer",
    ],
)
def test_errors_that_another_rank_has_caused(text):
    assert ended(0, 1, text).peer_failure and not ended(0, 1, TRACEBACK).peer_failure
    assert not ended(0, 143, text).peer_failure  # stopped, whatever it says
