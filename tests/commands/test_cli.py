"""The command as a user meets it: help with examples, one message and an exit code for every mistake."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from bertnli import cli
from bertnli.common import installed
from tests.conftest import environment
from tests.support import tiny

COMMANDS = ("demo", "fetch", "train", "eval", "verify", "export", "score")


def test_help_of_every_command_has_an_example(command, bertnli):
    listed = command("--help").stdout
    for name in COMMANDS:
        assert f"  {name} " in listed
        done = command(name, "--help")
        assert done.returncode == 0 and f"Example: bertnli {name}" in done.stdout
    assert bertnli("--help").stdout == listed, "a process of its own says the same"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and labelled rows that it can be asked for."""
    folder = tmp_path_factory.mktemp("made")
    tiny.hf_folder(folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(64)))
    return folder


@pytest.fixture
def model(made, tmp_path):
    return shutil.copytree(made / "model", tmp_path / "model")


@pytest.fixture
def data(made, tmp_path):
    return shutil.copy(made / "pairs.jsonl", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "nonsense"),
        (["fetch"], "bertnli fetch --list"),
        (["fetch", "minlm"], "minilm"),
        (["train", "none.yaml"], "none.yaml"),
        (["train"], "RUN.yaml"),
        (["eval", "none", "pairs.jsonl"], "none"),
        (["eval", "model", "none.tsv"], "none.tsv"),
        (["eval", "model", "pairs.jsonl", "--label", "gold"], "gold"),
        (["eval", "model", "pairs.jsonl", "--device", "tpu"], "tpu"),
        (["eval", "model", "pairs.jsonl", "--labels", "a,b,c"], "entailment"),
        (["export", "model", "out", "--precision", "fp64"], "fp64"),
        (["export", "model", "model"], "model"),
        (["verify", "model"], "manifest.json"),
        (["score", "model", "pairs.jsonl", "out.tsv"], "manifest.json"),
        (["score", "model"], "INPUT"),
    ],
)
def test_mistakes_end_in_one_message_and_code_2(command, tmp_path, model, data, arguments, said):
    done = command(*arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model", "pairs.jsonl"}


def test_debug_asks_for_the_traceback(bertnli):
    done = bertnli("train", "none.yaml", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "none.yaml" in done.stderr


def test_eval_export_verify_score_agree(command, bertnli, tmp_path, model, data):
    def summary(*arguments: object) -> dict:
        done = command(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    checkpoint = summary("eval", "model", "pairs.jsonl", "--report", "report")
    assert {"accuracy", "rows"} <= checkpoint.keys()
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["accuracy"] == checkpoint["accuracy"]
    assert (tmp_path / "report" / "report.html").is_file()

    exported = summary("export", "model", "bundle", "--verify", "pairs.jsonl")
    assert exported["bundle"] == "bundle" and exported["precision"] == "fp32" and exported["fused_attention"] == 2

    assert summary("verify", "bundle", "--data", "pairs.jsonl")["accuracy"] == checkpoint["accuracy"]
    assert summary("eval", "bundle", "pairs.jsonl")["confusion"] == checkpoint["confusion"]

    scored = summary("score", "bundle", "pairs.jsonl", "scores.csv")
    assert {"output", "rows", "errors", "truncated", "load_seconds", "pairs_per_second"} <= scored.keys()
    assert scored["accuracy"] == checkpoint["accuracy"] and scored["rows"] == 64

    piped = bertnli("score", "bundle", "-", "-", "--format", "jsonl", input=(tmp_path / "pairs.jsonl").read_text())
    assert len(piped.stdout.splitlines()) == 64
    assert "rows: 64" in piped.stderr


def test_a_name_that_tells_no_format_is_scored_with_format(command, tmp_path):
    """As the error message advises."""
    for name in ("pairs.dat", "pairs.tsv"):
        (tmp_path / name).write_text("premise\thypothesis\nA man runs.\tHe moves.\n")

    def score(*arguments):
        return command("score", tiny.bundle(), *arguments, "--device", "cpu")

    refused = score("pairs.dat", "scores.csv")
    assert refused.returncode == 2 and "pairs.dat: unknown format" in refused.stderr and "--format" in refused.stderr
    done = score("pairs.dat", "scores.csv", "--format", "tsv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores.csv").read_text().startswith("premise,hypothesis,prediction,")
    assert score("pairs.tsv", "again.out", "--format", "jsonl").returncode == 0
    assert json.loads((tmp_path / "again.out").read_text())["premise"] == "A man runs."
    wrong = score("pairs.tsv", "third.tsv", "--format", "jsonl")
    assert wrong.returncode == 2 and "looks like a text table" in wrong.stderr
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as archive:
        archive.write(tmp_path / "pairs.dat")
    assert score("pairs.zip#pairs.dat", "member.csv", "--format", "tsv").returncode == 0
    assert (tmp_path / "member.csv").read_text() == (tmp_path / "scores.csv").read_text()


def test_export_and_verify_read_columns_and_labels_of_any_name(command, tmp_path, model):
    rows = tiny.snli_rows(40)
    lines = [f"{row['sentence1']}\t{row['sentence2']}\t{at % 3}\n" for at, row in enumerate(rows)]
    (tmp_path / "odd.tsv").write_text("".join(["note\tclaim\tverdict\n", *lines, "\ta claim\t1\n"]))
    columns = ("--premise", "note", "--hypothesis", "claim", "--label", "verdict")
    names = ("--label-names", ",".join(f"{at}={label}" for at, label in enumerate(tiny.SNLI_LABELS)))
    refused = command("export", "model", "bundle", "--verify", "odd.tsv", *columns)
    assert refused.returncode == 2 and "--label-names" in refused.stderr
    done = command("export", "model", "bundle", "--verify", "odd.tsv", *columns, *names, "--json")
    assert done.returncode == 0, done.stderr
    exported = json.loads(done.stdout.splitlines()[-1])
    assert exported["labelled_rows"] == 40
    refused = command("verify", "bundle", "--data", "odd.tsv", *columns, *names)
    assert refused.returncode == 2 and "--skip-bad-rows" in refused.stderr
    done = command("verify", "bundle", "--data", "odd.tsv", *columns, *names, "--skip-bad-rows", "--json")
    assert done.returncode == 0, done.stderr
    verified = json.loads(done.stdout.splitlines()[-1])
    assert (verified["rows"], verified["accuracy"]) == (40, exported["accuracy"]["bundle"])
    for given, option in ((("export", "model", "other"), "--verify"), (("verify", "bundle"), "--data")):
        idle = command(*given, "--label", "verdict")
        assert idle.returncode == 2 and "--label-names" in idle.stderr and f"found no {option}" in idle.stderr


def test_d2l_weights_need_their_architectures_name(command, tmp_path, data):
    tiny.d2l_folder(tmp_path / "book", arch="bert.small", classifier=True)
    refused = command("eval", "book", "pairs.jsonl")
    assert refused.returncode == 2 and "--arch" in refused.stderr
    done = command("eval", "book", "pairs.jsonl", "--arch", "bert.small", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["labels"] == ["entailment", "contradiction", "neutral"]
    assert command("export", "book", "bundle", "--arch", "bert.small").returncode == 0
    assert command("score", "bundle", "pairs.jsonl", "scores.tsv").returncode == 0


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("onnxruntime.InferenceSession", ["score", "BUNDLE", "pairs.jsonl", "out.tsv"]),
        ("onnxruntime.InferenceSession.run", ["verify", "BUNDLE"]),
        ("numpy.load", ["verify", "BUNDLE"]),
        ("tokenizers.Tokenizer.from_str", ["score", "BUNDLE", "pairs.jsonl", "out.tsv"]),
        ("bertnli.data.tokenizer.PairTokenizer.encode", ["score", "BUNDLE", "pairs.jsonl", "out.tsv"]),
        ("zipfile.ZipFile", ["score", "BUNDLE", "pairs.zip", "out.tsv"]),
        ("torch.onnx.export", ["export", "model", "out"]),
        ("onnx.checker.check_model", ["export", "model", "out"]),
        ("safetensors.torch.load", ["export", "model", "out"]),
    ],
)
def test_a_signal_is_told_as_one_wherever_it_comes(tmp_path, model, data, monkeypatch, capsys, call, arguments):
    """And not as damage to what was being read, or as a library's failure."""

    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    (tmp_path / "pairs.zip").write_bytes(b"PK")
    bundle = str(tiny.bundle())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(call, interrupted)
    monkeypatch.setattr(sys, "argv", ["bertnli", *(bundle if word == "BUNDLE" else word for word in arguments)])
    handlers = {number: signal.getsignal(number) for number in cli.SIGNALS}
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capsys.readouterr().err
    assert ended.value.code == 143, said
    assert re.search("^bertnli: (interrupted|scoring was stopped)", said, re.MULTILINE), said


def test_version(command):
    module = [sys.executable, "-m", "bertnli", "--version"]
    for done in (command("--version"), subprocess.run(module, env=environment(), capture_output=True, text=True)):
        assert (done.returncode, done.stdout) == (0, f"bertnli {installed.__version__}\n")


def wait_until_caught(pid: int, number: int) -> None:
    """Until the process has a handler of its own for the signal."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status").read_text()
        if int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1:
            return
        time.sleep(0.05)
    raise AssertionError("no handler was set")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_signals_have_their_own_codes(tmp_path, number, code):
    """Interrupted while it waits for standard input: one line, no traceback."""
    command = [sys.executable, "-m", "bertnli.cli", "score", str(tiny.bundle()), "-", "-", "--format", "tsv"]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), text=True, **streams)
    process.stdin.write("premise\thypothesis\n")
    process.stdin.flush()
    wait_until_caught(process.pid, cli.SIGNALS[-1])  # Python itself has a handler for SIGINT from the start
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr


_SIGNAL_AT_THE_END = """
import signal, sys
from bertnli import cli
from bertnli.common import installed
from bertnli.common import standard_streams
standard_streams.exit_code = lambda code: signal.raise_signal(signal.SIGTERM)
sys.argv = ["bertnli", "--version"]
cli.main()
"""


def test_a_signal_after_the_work_ends_the_process_without_a_traceback():
    """While the last lines are written, when nothing is left to stop."""
    done = subprocess.run([sys.executable, "-c", _SIGNAL_AT_THE_END], env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


def test_a_signal_that_the_shell_has_us_ignore_stays_ignored(monkeypatch):
    """As it has a script's `bertnli … &` do with Ctrl-C, which is for the script alone."""
    seen = []
    monkeypatch.setattr(cli, "app", lambda *_, **__: seen.extend(map(signal.getsignal, (2, 15))))
    before = {number: signal.getsignal(number) for number in cli.SIGNALS}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        cli.main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [signal.SIG_IGN, cli._interrupt]


def test_a_keyboard_interrupt_of_a_librarys_own_is_an_interrupt(tmp_path, command, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bertnli.fetch.resolve.fetch", interrupted)
    assert command("fetch", "minilm").returncode == 130


def test_a_home_folder_in_an_options_value_is_meant(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    for given, meant in {
        "--to=~/data": "--to=/home/ann/data",
        "--report=~": "--report=/home/ann",
        "--to=a~b": "--to=a~b",
        "output=~/x": "output=~/x",
        "~/x": "~/x",
        "--from=~nobody-of-that-name/x": "--from=~nobody-of-that-name/x",
    }.items():
        assert cli._from_home(given) == meant
