"""The command line's options that several commands have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from bertnli.common.errors import InputError


def folder_here(parameter: typer.CallbackParam, folder: Path | None) -> Path | None:
    """A callback for a folder that is written. Raises InputError for a URL, which would be a folder of that name here.

    pathlib keeps one slash of `s3://bucket/out`.
    """
    if folder is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(folder)) and not folder.parent.exists():
        name = f"--{parameter.name}" if parameter.param_type_name == "option" else str(parameter.name).upper()
        raise InputError(name, found="a URL", expected="a folder here", do="give one, and copy it there afterwards")
    return folder


Json = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object on the last line.")]
Arch = Annotated[str | None, typer.Option(help="bert.small or bert.base, if MODEL is the path of d2l weights.")]
MaxLength = Annotated[
    int | None,
    typer.Option(metavar="TOKENS", help="Most tokens of a pair; longer pairs are cut. Default: the model's own."),
]
Truncation = Annotated[
    str | None,
    typer.Option(help="longest_first, only_first, only_second, d2l or proportional. Default: the model's own."),
]
Labels = Annotated[
    str | None, typer.Option(help="Label names in the model's order, comma-separated, if its config has LABEL_0, ….")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Premise = Annotated[str | None, typer.Option(help="Name of the premise column.")]
Hypothesis = Annotated[str | None, typer.Option(help="Name of the hypothesis column.")]
Label = Annotated[str | None, typer.Option(help="Name of the label column.")]
LabelNames = Annotated[
    str | None,
    typer.Option(metavar="CELL=LABEL,…", help="What label cells mean, such as 0=entailment,1=neutral,2=contradiction."),
]
Format = Annotated[
    str | None,
    typer.Option(help="tsv, csv, jsonl, parquet or arrow: the files' format, if their names do not tell it."),
]
Delimiter = Annotated[
    str | None,
    typer.Option(metavar="CHARACTER", help="Between the cells of a text table; also tab, semicolon. Default: found."),
]
Quoting = Annotated[
    str | None,
    typer.Option(
        metavar="csv|none", help="Whether double quotes enclose cells of a text table, or are text. Default: found."
    ),
]
NoHeader = Annotated[
    bool, typer.Option("--no-header", help="The text table has no header; its columns are 1, 2, and so on.")
]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Skip rows that cannot be used, and count them.")]

Include = Annotated[str | None, typer.Option(metavar="HOST[:SLOT,…]@…", help="Only these hosts and slots.")]
Exclude = Annotated[str | None, typer.Option(metavar="HOST[:SLOT,…]@…", help="All but these hosts and slots.")]
EnvFile = Annotated[
    str | None, typer.Option(help="File of NAME=VALUE lines for all ranks. Default: .deepspeed_env, as in DeepSpeed.")
]
MasterAddr = Annotated[str | None, typer.Option(help="Address of the first host. Default: found automatically.")]
MasterPort = Annotated[int, typer.Option(min=1, max=65535, help="A free port on the first host.")]
