"""The command `bertnli`: one thin function for each command. Slow imports are inside the functions."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bertnli.commands.command_group import CommandGroup, with_hyphens
from bertnli.commands.options import (
    Arch,
    Delimiter,
    Device,
    EnvFile,
    Exclude,
    Format,
    Hypothesis,
    Include,
    Json,
    Label,
    LabelNames,
    Labels,
    MasterAddr,
    MasterPort,
    MaxLength,
    NoHeader,
    Premise,
    Quoting,
    SkipBadRows,
    Truncation,
    folder_here,
)
from bertnli.commands.score import score
from bertnli.commands.summary import print_summary
from bertnli.common import memory, standard_streams
from bertnli.common.cores import spin_briefly
from bertnli.common.errors import InputError, Interrupted, causes
from bertnli.common.for_user import as_told
from bertnli.common.gpus import find_gpus
from bertnli.common.imports import quick_imports
from bertnli.common.installed import __version__, need
from bertnli.common.signals import SIGNALS, meaning, not_ignored

app = typer.Typer(
    cls=CommandGroup,
    help="Fine-tune BERT and its relatives on sentence pairs, export them to ONNX, score files of pairs.",
    epilog="Start with: bertnli demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": with_hyphens},
)


def _fetchable(incomplete: str) -> list[str]:
    """Names for the shell's completion."""
    from bertnli.fetch.catalog import CATALOG

    return [name for name in CATALOG if name.startswith(incomplete)]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"bertnli {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere on the line.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fine-tune BERT and its relatives on sentence pairs, export them to ONNX, score files of pairs."""


@app.command(epilog="Example: bertnli demo --out runs/demo")
def demo(
    out: Annotated[
        Path, typer.Option(callback=folder_here, help="Folder for the run, the bundle, the scores and the report.")
    ] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Run all steps on real data, from fetching to scoring a file."""
    from bertnli.commands.demo import run

    print_summary(run(out), as_json)


@app.command(epilog="Example: bertnli fetch minilm")
def fetch(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A name from --list, a model's hub id (org/name or org/name@revision), or hf:org/name:split.",
            autocompletion=_fetchable,
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(callback=folder_here, help="Also copy it into this folder.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Take it from this file, folder or file's URL (https://, s3://, …).")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show the names.")] = False,
    as_json: Json = False,
) -> None:
    """Download a data set or a pretrained model by name. Downloads are resumed and verified."""
    from bertnli.families import described, folder_config
    from bertnli.fetch import catalog
    from bertnli.fetch.resolve import fetch as fetch_name

    if show_list:
        if name is not None or to is not None or source is not None:
            raise InputError("fetch --list", found="also NAME, --to or --from", do="omit those")
        known = described.families()
        if as_json:
            print(json.dumps({"names": catalog.describe(), "suites": catalog.SUITES, "families": known}))
            return
        for row in catalog.describe():
            print(f"{row['name']:<18} {row['kind']:<8} {row['about']} ({row['licence']})")
        for suite, members in catalog.SUITES.items():
            print(f"{suite:<18} suite, for bertnli eval: {', '.join(members)}")
        print("\nModels of these families run, by their hub id (org/name or org/name@revision) or as a folder:")
        for family in known:
            print(f"{', '.join(family['model_types']):<18} {family['about']}")
        print("bertnli doctor --model ORG/NAME says whether and how a model runs, without fetching its weights.")
        return
    if name is None:
        raise InputError("fetch: no name given", do="see the names with: bertnli fetch --list")
    path = fetch_name(name, to=to, source=source, parse_config=folder_config.parse)
    print_summary({"path": str(path)}, as_json)


@app.command(epilog="Example: bertnli train run.yaml --set learning_rate=2e-5 --ranks 2")
def train(
    run_file: Annotated[str, typer.Argument(metavar="RUN.yaml")],
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Number of processes. Default: one for each device.")] = None,
    local_rank: Annotated[int | None, typer.Option("--local_rank", "--local-rank", hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune on this machine as the run file says. The same command resumes a run that was stopped."""
    from bertnli.run.run_file import read_run
    from bertnli.watch import rank_env

    read_run(run_file, sets or [], ranks)  # reports mistakes in the run file before torch is loaded
    need("torch", "train")
    need("deepspeed", "train")
    if ranks is None and rank_env.is_rank(os.environ):  # a launcher has started this command as one of several
        ranks = 1
    else:
        rank_env.leave_job(os.environ)
        memory.require(1100)
        # With several ranks this process needs torch only to count the GPUs; if the driver has none, torch has none.
        devices = 0 if (ranks or 1) > 1 and not find_gpus().count else _torch_devices()
        ranks = ranks or max(1, devices)
        if devices and ranks > devices:
            raise InputError("--ranks", found=str(ranks), expected=f"at most {devices}, the number of GPUs")
    arguments = [run_file, *(part for assignment in sets or [] for part in ("--set", assignment))]
    arguments += ["--json"] * as_json + ["--debug"] * _debug()
    if ranks == 1:
        from bertnli.train import process

        raise typer.Exit(process.main(arguments))
    from bertnli_launch import local

    # Otherwise DeepSpeed's launcher guesses it and prints so, which is a traceback of its own on a full disk.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if devices else "cpu")
    raise typer.Exit(local.run(ranks, arguments))


@app.command(epilog="Example: bertnli launch run.yaml --hostfile hosts")
def launch(
    run_file: Annotated[str, typer.Argument(metavar="RUN.yaml")],
    hostfile: Annotated[str, typer.Option(help="Lines of: HOST slots=N.")],
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    env_file: EnvFile = None,
    master_addr: MasterAddr = None,
    master_port: MasterPort = 29500,
    launcher: Annotated[str | None, typer.Option(help="pdsh or ssh. Default: pdsh if it is installed.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the hosts, print the commands, start nothing.")
    ] = False,
    restarts: Annotated[int, typer.Option(min=0, help="Restart a failed job at most so many times.")] = 0,
    min_hosts: Annotated[
        int | None, typer.Option(help="Restart if at least so many hosts still answer. Default: all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune on many hosts with the deepspeed launcher. All hosts are checked first."""
    need("deepspeed", "train")
    from bertnli_launch import job

    code = job.launch(
        run_file,
        sets or [],
        hosts_file=hostfile,
        include=include,
        exclude=exclude,
        env_file=env_file,
        master=master_addr,
        port=master_port,
        launcher=launcher,
        dry_run=dry_run,
        restarts=restarts,
        min_hosts=min_hosts,
        more=["--json"] * as_json + ["--debug"] * _debug(),
    )
    raise typer.Exit(code)


@app.command(name="doctor", epilog="Example: bertnli doctor --hostfile hosts")
def doctor(
    hostfile: Annotated[str | None, typer.Option(help="Check all hosts in this file, as launch does.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    env_file: EnvFile = None,
    master_addr: MasterAddr = None,
    master_port: MasterPort = 29500,
    bundle: Annotated[
        str | None, typer.Option(help="Check the files of this bundle, a folder or its URL, against its manifest.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Say whether and how a model runs (hub id, name or path), without fetching its weights."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine, or all hosts of a hostfile. Each problem is shown with its fix."""
    from bertnli_launch.doctor import doctor as examine

    found = examine(
        hostfile,
        include=include,
        exclude=exclude,
        env_file=env_file,
        master=master_addr,
        port=master_port,
        bundle=bundle,
    )
    if model is not None:
        from bertnli.commands import about_model
        from bertnli.common.printable import printable

        found["model"] = about_model.about_model(model)
        for line in about_model.lines(found["model"]):
            print(printable(line))
    if as_json:
        print(json.dumps(found))


@app.command(name="eval", epilog="Example: bertnli eval runs/snli/model snli-test --report runs/snli/test")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model folder, run, checkpoint, d2l zip or bundle; a hub id; a bundle's URL; or a name for fetch.",
        ),
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...", help="Labelled files, their URLs, or names for fetch; nli-suite is ten data sets."
        ),
    ],
    report: Annotated[
        Path | None,
        typer.Option(callback=folder_here, help="Write report.html and evaluation.json into this folder."),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(metavar="HELD_OUT", help="Fit a temperature on these labelled rows; store it with the model."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="OTHER", help="Compare with another model on the same rows.")
    ] = None,
    arch: Arch = None,
    labels: Labels = None,
    max_length: MaxLength = None,
    truncation: Truncation = None,
    device: Device = "auto",
    premise: Premise = None,
    hypothesis: Hypothesis = None,
    label: Label = None,
    label_names: LabelNames = None,
    format: Format = None,
    delimiter: Delimiter = None,
    quoting: Quoting = None,
    no_header: NoHeader = False,
    skip_bad_rows: SkipBadRows = False,
    shuffle_premises: Annotated[
        bool, typer.Option("--shuffle-premises", help="Control: shuffle the premises over the rows.")
    ] = False,
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="For a model that gives a score: rank the rows with the same value here."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy and more. MODEL may be a checkpoint, a model of the hub or an ONNX bundle."""
    memory.require(512)
    from bertnli.commands import model_argument
    from bertnli.commands.eval import NamedModel, evaluation
    from bertnli.data.dialect import Dialect
    from bertnli.data.pairs import Columns

    dialect = Dialect(format, delimiter, quoting, not no_header)

    keep = None if calibrate is None else model_argument.temperature_writer(model)
    options, other = model_argument.ModelOptions(arch, labels, max_length, truncation), None
    if against is not None:
        options, other_options = model_argument.split_options(options, model, against)
        other = NamedModel(against, model_argument.predictor(against, other_options, device))
    found = evaluation(
        model,
        model_argument.predictor(model, options, device),
        data,
        calibrate=calibrate,
        keep=keep,
        against=other,
        columns=Columns(premise, hypothesis, label),
        label_names=_mapping("--label-names", label_names),
        dialect=dialect,
        skip_bad_rows=skip_bad_rows,
        shuffle_premises=shuffle_premises,
        group=group,
        report=report,
    )
    if as_json:
        print(json.dumps(found))


@app.command(epilog="Example: bertnli export runs/snli/model bundle --verify snli-test")
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model folder, run, checkpoint or d2l zip; a hub id; or a name for fetch."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", callback=folder_here, help="The bundle's folder.")],
    precision: Annotated[str, typer.Option(help="fp32 (CPU and GPU), int8 (CPU) or fp16 (GPU).")] = "fp32",
    layout: Annotated[
        str,
        typer.Option(
            help="bertnli (optimum can open it too); hub: fp32 and int8, as models of the hub have them; triton: "
            "OUT is a Triton model repository."
        ),
    ] = "bertnli",
    opset: Annotated[
        int, typer.Option(help="23; or 17, for programs with an older ONNX Runtime, from 1.16 (fp32 and int8).")
    ] = 23,
    verify: Annotated[
        str | None, typer.Option(metavar="DATA", help="Real rows for the parity check, by path, URL or name.")
    ] = None,
    premise: Premise = None,
    hypothesis: Hypothesis = None,
    label: Label = None,
    label_names: LabelNames = None,
    format: Format = None,
    delimiter: Delimiter = None,
    quoting: Quoting = None,
    no_header: NoHeader = False,
    arch: Arch = None,
    labels: Labels = None,
    max_length: MaxLength = None,
    truncation: Truncation = None,
    allow_unfused: Annotated[
        bool, typer.Option("--allow-unfused", help="Accept a graph whose attention is not fused.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    as_json: Json = False,
) -> None:
    """Export a checkpoint to an ONNX bundle with fused attention. If the parity check fails, no bundle is left."""
    need("onnxscript", "export")
    memory.require(1200)
    with quick_imports():
        from bertnli_export.build import export_bundle

    from bertnli.commands import model_argument
    from bertnli.data.dialect import Dialect
    from bertnli.data.pairs import Columns
    from bertnli.evaluation.data_sets import open_set
    from bertnli.report import licences

    dialect = Dialect(format, delimiter, quoting, not no_header)
    if verify is None and (premise or hypothesis or label or label_names or dialect != Dialect()):
        options = "--premise, --hypothesis, --label, --label-names, --format, --delimiter, --quoting, --no-header"
        raise InputError(options, found="no --verify", do="give --verify DATA too")
    names = _mapping("--label-names", label_names)
    source = model_argument.load(model, model_argument.ModelOptions(arch, labels, max_length, truncation))
    rows = None
    if verify is not None:
        columns, reads_parse = Columns(premise, hypothesis, label), source.tokenizer.settings.reads_parse
        kind: dict[str, Any] = {"prefer_parse": reads_parse, "problem_type": source.config.outputs.problem_type}
        rows = open_set(verify, columns, label_names=names, dialect=dialect, **kind)
        for note in rows.file.notes:
            _say(note)
    summary = export_bundle(
        source,
        out,
        precision=precision,
        layout=layout,
        opset=opset,
        verify_data=rows,
        allow_unfused=allow_unfused,
        force=force,
        name=model,
        terms=licences.of_model(model),
    )
    print_summary(summary, as_json)


@app.command(epilog="Example: bertnli verify bundle --data snli-test")
def verify(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="A folder that bertnli export made, or its URL.")],
    data: Annotated[
        str | None, typer.Option(help="A labelled file, its URL, or a name for fetch, to measure accuracy.")
    ] = None,
    device: Device = "auto",
    premise: Premise = None,
    hypothesis: Hypothesis = None,
    label: Label = None,
    label_names: LabelNames = None,
    format: Format = None,
    delimiter: Delimiter = None,
    quoting: Quoting = None,
    no_header: NoHeader = False,
    skip_bad_rows: SkipBadRows = False,
    as_json: Json = False,
) -> None:
    """Check a bundle on this machine. Its files and its logits must be as when it was exported."""
    from bertnli_export.verify import verify as check

    from bertnli.data.dialect import Dialect
    from bertnli.data.pairs import Columns

    dialect = Dialect(format, delimiter, quoting, not no_header)
    if data is None and (premise or hypothesis or label or label_names or skip_bad_rows or dialect != Dialect()):
        options = "--premise, --hypothesis, --label, --label-names, --skip-bad-rows, --format, --delimiter, --quoting, "
        raise InputError(f"{options}--no-header", found="no --data", do="give --data too")
    summary = check(
        bundle,
        data,
        device=device,
        columns=Columns(premise, hypothesis, label),
        label_names=_mapping("--label-names", label_names),
        dialect=dialect,
        skip_bad_rows=skip_bad_rows,
        say=_say,
    )
    print_summary(summary, as_json)


app.command(epilog="Example: bertnli score bundle pairs.tsv scores.tsv")(score)


@app.command(epilog="Example: bertnli push runs/snli org/name")
def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The folder of a model, a finished run or a bundle.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository on the model hub.")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who sees a new repository. Default: private.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, made if it is missing. Default: main.")] = None,
    message: Annotated[str | None, typer.Option(help="The commit's message.")] = None,
    delete_others: Annotated[
        bool, typer.Option("--delete-others", help="Remove the repository's other files in the same commit.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Push a model or a bundle to the model hub, as one commit. The token is HF_TOKEN, or that of `hf auth login`."""
    from bertnli.commands.push import push as push_model

    options: dict[str, Any] = {"private": private, "revision": revision, "message": message}
    print_summary(push_model(model, repo, delete_others=delete_others, **options), as_json)


def main() -> None:
    """The console script. An error that the user can cause becomes one message and an exit code."""
    standard_streams.protect()
    spin_briefly(os.environ)
    handled = list(not_ignored(SIGNALS))
    for number in handled:
        signal.signal(number, _interrupt)
    try:
        try:
            app([_from_home(argument) for argument in sys.argv[1:] if argument != "--debug"], prog_name="bertnli")
        finally:
            for number in handled:  # what was asked for is done: a signal now ends the process, without a traceback
                signal.signal(number, signal.SIG_DFL)
    except SystemExit as ended:  # typer always ends so, with a number, and for a KeyboardInterrupt of a library
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes(ended)):
            sys.exit(128 + signal.SIGINT)
        sys.exit(standard_streams.exit_code(int(ended.code or 0)))
    except (Exception, Interrupted) as error:
        told = as_told(error)
        if told is None or _debug():
            raise
        print(f"bertnli: {told}", file=sys.stderr)
        sys.exit(told.exit_code)


def _from_home(argument: str) -> str:
    """`--to=~/data` as it is meant: shells replace a ~ only at the beginning of a word."""
    option, equals, value = argument.partition("=")
    if not (option.startswith("--") and value.startswith("~")):
        return argument
    return option + equals + os.path.expanduser(value)  # noqa: PTH111  # it leaves what it cannot replace


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(meaning(number), "interrupted")


def _debug() -> bool:
    return "--debug" in sys.argv


def _torch_devices() -> int:
    """The GPUs that torch can use."""
    with quick_imports():
        import torch
    return torch.cuda.device_count()


def _mapping(option: str, given: str | None) -> dict[str, str]:
    """The value of an option such as `a=b,c=d`."""
    from bertnli.data.labels import parse_label_names

    return parse_label_names(option, given)


def _say(line: str) -> None:
    """Print a line for the user that is no result."""
    from bertnli.common.progress import say

    say(line)


if __name__ == "__main__":
    main()
