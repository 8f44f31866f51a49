"""Text that others wrote: a byte-order mark is no text, and UTF-16 is named with a command that converts it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bertnli_launch import envfile, hostfile

from bertnli.common.encodings import with_escapes
from bertnli.common.errors import InputError
from bertnli.common.files import read_json
from bertnli.run.run_file import load_run

READERS: dict[str, tuple[Callable[[Path], Any], str, Any]] = {
    "hosts": (hostfile.read, "gpu-1 slots=2\n", {"gpu-1": (0, 1)}),
    ".deepspeed_env": (envfile.read, 'NAME="é"\n', {"NAME": "é"}),
    "run.yaml": (lambda path: load_run(path).output, "model: m\noutput: é\nmax_steps: 1\ndata: {train: a.tsv}\n", "é"),
    "vocab.json": (read_json, '["é"]\n', ["é"]),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_is_read_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str
) -> None:
    monkeypatch.chdir(tmp_path)
    read, text, value = READERS[name]
    Path(name).write_bytes(text.encode(encoding))
    if encoding.startswith("utf-8"):
        assert read(Path(name)) == value
        return
    with pytest.raises(InputError, match=f"{encoding.upper()} text; convert it: iconv") as error:
        read(Path(name))
    if shutil.which("iconv") is None:
        pytest.skip("no iconv")
    command = str(error.value).partition("convert it: ")[2].partition("; expected")[0]
    subprocess.run(["bash", "-c", command], check=True)
    assert read(Path(f"{name}.new")) == value


def test_a_null_in_short_text_is_no_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"1\0")
    with pytest.raises(InputError, match="cannot be read; found Extra data"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("é 日本", "utf-8", "é 日本"),
        ("a\udcff", "utf-8", r"a\udcff"),
        ("é 日", "latin-1", r"é \u65e5"),
        ("é", "ascii", r"\xe9"),
    ],
)
def test_what_an_encoding_does_not_have_is_escaped(text: str, encoding: str, shown: str) -> None:
    assert with_escapes(text, encoding) == shown
    shown.encode(encoding)
