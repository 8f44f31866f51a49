"""Hostfiles: a line that is not a host with slots is an error with its number, never a job on this machine only."""

from __future__ import annotations

from pathlib import Path

import pytest
from bertnli_launch import hostfile
from hypothesis import given, settings
from hypothesis import strategies as st

from bertnli.common.errors import InputError

HOSTS = {"a": (0, 1, 2, 3), "b": (0, 1), "worker-3": (0,)}


def written(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_hosts_in_order_comments_and_blank_lines(tmp_path):
    path = written(
        tmp_path, "# a cluster\n\n  gpu-2.example.org \t slots=4  # the fast one\n\nb_1 slots=1\n#c slots=1\n"
    )
    assert list(hostfile.read(path).items()) == [("gpu-2.example.org", (0, 1, 2, 3)), ("b_1", (0,))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a slots=1\nb\n", r"line 2: 'b'; found no slots="),
        ("a slots=1\n\n# b\na slots=2\n", r"line 4: .*found a twice, first on line 1"),
        ("a slots=0\n", r"line 1: .*no slot to run on"),
        ("a slots=two\n", r"line 1: .*found the word 'slots=two'"),
        ("a slots=2 max_slots=4\n", r"line 1: .*found the word 'max_slots=4'"),
        ("a slots=2 slots=4\n", r"line 1: .*slots= twice"),
        ("a slots=-1\n", r"line 1: .*found the word 'slots=-1'"),
        ("a:8\n", r"line 1: .*found the host 'a:8'"),
        ("-oProxyCommand=touch slots=1\n", r"line 1: .*found the host '-oProxyCommand=touch'"),
        ("a;reboot slots=1\n", r"line 1: .*found the host 'a;reboot'"),
        ("a[1-3] slots=1\n", r"line 1: .*found the host"),
        ("me@a slots=1\n", r"~/.ssh/config"),
        ("$(reboot) slots=1\n", r"found the host"),
        ("a slots = 1\n", r"found the word 'slots'"),
        ("# nothing\n\n", r"found no host; expected a line for each host"),
    ],
)
def test_anything_else_is_an_error_with_its_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        hostfile.read(written(tmp_path, text))
    assert str(tmp_path / "hosts") in str(caught.value)


def test_a_missing_hostfile_is_an_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        hostfile.read(tmp_path / "nothing")


@settings(max_examples=50)
@given(text=st.text())
def test_any_text_is_hosts_or_an_input_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        hosts = hostfile.read(path)
    except InputError:
        return
    assert hosts and all(slots == tuple(range(len(slots))) and slots for slots in hosts.values())


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        (None, None, HOSTS),
        ("b@a:0,2", None, {"a": (0, 2), "b": (0, 1)}),
        ("a:3@a:1", None, {"a": (1, 3)}),
        (None, "a:0", {"a": (1, 2, 3), "b": (0, 1), "worker-3": (0,)}),
        (None, "b@worker-3:0", {"a": (0, 1, 2, 3)}),
    ],
)
def test_include_and_exclude(include, exclude, left):
    assert list(hostfile.select(HOSTS, include, exclude).items()) == list(left.items())


@pytest.mark.parametrize(("include", "exclude"), [("b@a:0,2", ""), ("a:1", ""), ("", "a:0@b"), ("", "worker-3")])
def test_include_and_exclude_are_deepspeeds(include, exclude):
    runner = pytest.importorskip("deepspeed.launcher.runner")
    pool = {host: len(slots) for host, slots in HOSTS.items()}
    theirs = runner.parse_inclusion_exclusion(pool, include, exclude)
    assert hostfile.select(HOSTS, include, exclude) == {host: tuple(slots) for host, slots in theirs.items()}


def test_what_is_written_for_deepspeed_it_reads_as_the_same_slots(tmp_path):
    runner = pytest.importorskip("deepspeed.launcher.runner")
    chosen = {"a": (1, 3), "worker-3": (0,)}
    pool = runner.fetch_hostfile(written(tmp_path, hostfile.to_text(chosen)))
    theirs = runner.parse_inclusion_exclusion(pool, hostfile.to_include(chosen), "")
    assert theirs == {host: list(slots) for host, slots in chosen.items()}


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        ("a", "b", "found both"),
        ("c", None, "no host 'c' in the hostfile; expected one of a, b, worker-3"),
        ("a:4", None, "found slot 4; expected 0 to 3"),
        ("a:x", None, "found the slots 'x'"),
        ("a:", None, "found the slots ''"),
        ("a@", None, "no host ''"),
        (None, "a@b@worker-3", "no slot to run on"),
    ],
)
def test_what_the_hostfile_does_not_have_is_refused(include, exclude, message):
    with pytest.raises(InputError, match=message):
        hostfile.select(HOSTS, include, exclude)
