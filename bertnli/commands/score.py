"""What `bertnli score` does: its options, and the summary of a file or of a folder on Ray. Slow imports are inside."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bertnli.commands.options import Delimiter, Device, Hypothesis, Json, Label, NoHeader, Premise, Quoting
from bertnli.commands.summary import print_summary
from bertnli.common import memory
from bertnli.common.errors import InputError
from bertnli.common.installed import need
from bertnli.common.urls import is_url, redact

if TYPE_CHECKING:
    from bertnli_export.expansion import Expansion


def score(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A folder that bertnli export made, or its URL.")],
    input: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A .tsv, .csv, .jsonl (also .gz, .zst), .parquet or .arrow file, its URL, or a name for fetch; - is "
            "standard input.",
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(
            metavar="OUTPUT", help="A file in one of these formats, not .arrow, or its URL; - is standard output."
        ),
    ],
    device: Device = "auto",
    devices: Annotated[str | None, typer.Option(help="GPUs to use, such as 0,1. Default: all.")] = None,
    workers: Annotated[int, typer.Option(help="Number of processes, on the CPU; they share the cores.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Divide the logits by it; 1 turns it off. Default: the bundle's.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="For independent labels: predict those with a probability above it. Default: 0.5."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be scored.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Start from the beginning, and replace OUTPUT.")] = False,
    premise: Premise = None,
    hypothesis: Hypothesis = None,
    label: Label = None,
    prefix: Annotated[str, typer.Option(help="Prefix for the names of the added columns.")] = "",
    format: Annotated[
        str | None,
        typer.Option(
            help="tsv, csv, jsonl, parquet or arrow: of INPUT or OUTPUT if its name does not tell it, such as -; of "
            "INPUT if both names do, but INPUT's is wrong."
        ),
    ] = None,
    delimiter: Delimiter = None,
    quoting: Quoting = None,
    no_header: NoHeader = False,
    windows: Annotated[
        str | None,
        typer.Option(
            metavar="premise", help="Score a long premise in overlapping windows, each with the whole hypothesis."
        ),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="What a window has in common with the one before. Default: 32.")
    ] = None,
    over: Annotated[
        str | None,
        typer.Option(metavar="max|mean", help="Of the windows' probabilities, by label. Default: max."),
    ] = None,
    candidate_labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|COLUMN|A,B,…",
            help="Zero-shot classification of texts: which of these labels (one in each line of a file) fits best.",
        ),
    ] = None,
    hypothesis_template: Annotated[
        str | None, typer.Option(help="The hypothesis of a label, which replaces {}. Default: 'This example is {}.'")
    ] = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Several candidate labels may be true.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Score all files of a folder into a folder, on a Ray cluster: auto, local or HOST:PORT. Both may be "
            "URLs, and INPUT a glob.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a file: each input row has one output row, in order. The same command resumes after a kill."""
    memory.require(200)
    from bertnli.common.progress import progress, say
    from bertnli.data.dialect import Dialect, usual
    from bertnli.data.formats import says_format
    from bertnli.data.pairs import Columns
    from bertnli.fetch.catalog import lookup_unless_path
    from bertnli.fetch.resolve import resolve_data

    if candidate_labels is not None and (hypothesis is not None or label is not None):
        do = "omit them; --premise names the column of the texts"
        raise InputError("--hypothesis, --label", found="also --candidate-labels", do=do)
    dialect = Dialect(None if ray is None else format, delimiter, quoting, not no_header)
    options: dict[str, Any] = {
        "device": device,
        "temperature": temperature,
        "threshold": threshold,
        "strict": strict,
        "restart": restart,
        "columns": Columns(premise, hypothesis, label),
        "prefix": prefix,
        "dialect": dialect,
        "expansion": _expansion(windows, stride, over, candidate_labels, hypothesis_template, multi_label),
    }
    if ray is not None:
        need("ray", "ray")
        from bertnli_export.distributed import find_partitions, score_partitions

        if devices is not None or workers != 1:
            raise InputError("--ray", found="also --devices or --workers", do="omit those")
        partitions = find_partitions(input, output)
        with progress("partitions", len(partitions)) as show:
            summary = score_partitions(bundle, partitions, output, ray, progress=show, **options)
        for note in summary.get("notes", ()):
            say(note)
        return print_summary(summary, as_json)

    from bertnli_export.score import score_file

    read = input if input == "-" or is_url(input) else resolve_data(input)
    if read != "-" and lookup_unless_path(input) is not None:
        options["dialect"] = usual(str(read))
    read_as, write_as = (
        None if format is None or says_format(redact(name) if is_url(name) else name) else format
        for name in (read, output)
    )
    if format is not None and read_as is write_as is None:
        read_as = format
    with progress("rows") as show:
        summary = score_file(
            bundle,
            read,
            output,
            gpus=devices,
            workers=workers,
            input_format=read_as,
            output_format=write_as,
            progress=show,
            say=say,
            **options,
        )
    # If the scores go to standard output, the summary goes to standard error.
    print_summary(summary, as_json, file=sys.stderr if output == "-" else sys.stdout)


def _expansion(
    windows: str | None,
    stride: int | None,
    over: str | None,
    candidate_labels: str | None,
    template: str | None,
    multi_label: bool,
) -> Expansion | None:
    """How a row becomes several pairs. Raises InputError for options that do not belong together."""
    if windows is None and (stride is not None or over is not None):
        raise InputError("--stride, --over", found="no --windows", do="give --windows premise too")
    if candidate_labels is None and (template is not None or multi_label):
        found, do = "no --candidate-labels", "give --candidate-labels too"
        raise InputError("--hypothesis-template, --multi-label", found=found, do=do)
    if windows is not None and candidate_labels is not None:
        raise InputError("--windows", found="also --candidate-labels", do="omit one of the two")
    if candidate_labels is not None:
        from bertnli_export.zero_shot import TEMPLATE, ZeroShot

        return ZeroShot.read(candidate_labels, TEMPLATE if template is None else template, multi_label)
    if windows is None:
        return None
    if windows != "premise":
        raise InputError("--windows", found=repr(windows), expected="premise")
    from bertnli_export.window_scores import Windows

    given = {"stride": stride, "over": over}
    return Windows(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
