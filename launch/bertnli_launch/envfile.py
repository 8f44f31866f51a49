"""The environment of a job's processes: which variables go along, and a person's env file.

DeepSpeed takes few of them along by itself, and its own reader of env files knows no comments, blank lines or quotes.
So a person's file is read here (python-dotenv's parser), and DeepSpeed is given one that shell.py writes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

from bertnli.common.errors import InputError
from bertnli.common.installed import need

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# What every host needs of the environment that a job is started from. Not CUDA_VISIBLE_DEVICES, which DeepSpeed sets
# from the slots, and no HF_TOKEN: what goes along can be read in a host's list of processes.
_GOES_ALONG = re.compile(
    r"PATH|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|LANG|LC_ALL|PYTHON[A-Z]*|CUDA_(?!VISIBLE_DEVICES).+"
    r"|(BERTNLI|DS|GLOO|HF|KMP|MKL|NCCL|OMP|PYTORCH|TOKENIZERS|TORCH|TORCHINDUCTOR|TRITON|UCX)_(?!TOKEN).+"
)


def going_along(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of `environment` that every rank of the job should have too."""
    return {name: value for name, value in environment.items() if _GOES_ALONG.fullmatch(name)}


def read(path: str | Path) -> dict[str, str]:
    """The variables of the file at `path`: lines of NAME=VALUE, quoted or not, comments, blank lines, `export` before.

    Values are taken as they stand: no `$` is expanded. Raises InputError with the line's number for anything else.
    """
    need("dotenv", "train")
    from dotenv.parser import parse_stream

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"env file {path}: {error}", expected="a text file with lines of NAME=VALUE") from None
    variables = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.key is None and not binding.error:
            continue  # comments and blank lines
        source = binding.original.string
        line = binding.original.line + source[: len(source) - len(source.lstrip())].count("\n")
        if binding.value is None or not _NAME.fullmatch(binding.key or ""):
            raise InputError(
                f"env file {path}, line {line}: {source.strip().splitlines()[0]!r}",
                expected="NAME=VALUE, the value in quotes where it holds a # or ends in spaces; or # and a comment",
            )
        variables[str(binding.key)] = binding.value
    return variables
