"""The environment of a job's processes: which variables are passed on to the hosts, and the user's env file.

DeepSpeed itself passes few variables on, and its reader of env files does not accept comments, blank lines or quotes.
So the user's file is read here with python-dotenv's parser, and DeepSpeed gets a file that shell.py writes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

from bertnli.common.encodings import read_text
from bertnli.common.errors import InputError
from bertnli.common.installed import need

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# What every host needs of the environment in which the job is started. CUDA_VISIBLE_DEVICES is left to DeepSpeed, which
# sets it from the slots. HF_TOKEN is excluded: every user of a host can read these variables in its list of processes.
_PASSED_ON = re.compile(
    r"PATH|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|LANG|LC_ALL|PYTHON[A-Z]*|CUDA_(?!VISIBLE_DEVICES).+"
    r"|(BERTNLI|DS|GLOO|HF|KMP|MKL|NCCL|OMP|PYTORCH|TOKENIZERS|TORCH|TORCHINDUCTOR|TRITON|UCX)_(?!TOKEN).+"
)


def passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environment` that every rank of the job gets."""
    return {name: value for name, value in environment.items() if _PASSED_ON.fullmatch(name)}


def read(path: str | Path) -> dict[str, str]:
    """Read a file of NAME=VALUE lines; quotes, comments, blank lines and a leading `export` are allowed.

    A `$` in a value is not expanded. Raises InputError with the line's number for anything else.
    """
    need("dotenv", "train")
    from dotenv.parser import parse_stream

    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
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
                expected="NAME=VALUE, with quotes if the value contains a # or ends in spaces; or # and a comment",
            )
        variables[str(binding.key)] = binding.value
    return variables
