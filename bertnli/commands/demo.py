"""`bertnli demo`: the complete path on real data, as the commands that a user types; each is printed before it runs."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from bertnli.common.errors import BertnliError
from bertnli.common.files import digest, write_text
from bertnli.common.safe_path import safe_path
from bertnli.common.signals import run_child
from bertnli.report import report
from bertnli.report.licences import notes_about
from bertnli.report.provenance import provenance
from bertnli.run.folder import RunFolder, read_metrics
from bertnli.run.run_file import load_run

RECIPE = Path(__file__).with_name("demo.yaml")
MODEL = "minilm"
DATA = ("snli-100k", "snli-test")


def run(out: Path) -> dict[str, Any]:
    """Fetch, train, evaluate, export, verify, score. Steps that were done before and are still valid are skipped.

    Returns the results, which are also in `out/demo.json` and `out/report.html`. Raises BertnliError with the exit code
    of the command that failed.
    """
    began = time.monotonic()
    folder = RunFolder(out)
    paths = {name: _bertnli("fetch", name)["path"] for name in (MODEL, *DATA)}
    fetched = time.monotonic()

    sets = [f"output={out}"]
    training = _saved(folder.path / "train.json")
    if not (folder.finished and training and load_run(folder.run_file) == load_run(RECIPE, sets)):
        training = _save(folder.path / "train.json", _bertnli("train", str(RECIPE), "--set", *sets))

    # A result is valid only for the weights that it was measured with.
    weights = digest(folder.model / "model.safetensors")
    evaluation = _saved(folder.path / "eval.json")
    if evaluation is None or evaluation.get("weights") != weights:
        found = _bertnli("eval", str(folder.model), "snli-test")
        evaluation = _save(folder.path / "eval.json", {**found, "weights": weights})

    bundle = folder.path / "bundle"
    exported = _saved(folder.path / "export.json")
    if exported is None or exported.get("weights") != weights or not bundle.is_dir():
        force = ["--force"] if bundle.exists() else []
        found = _bertnli("export", str(folder.model), str(bundle), "--verify", "snli-test", *force)
        exported = _save(folder.path / "export.json", {**found, "weights": weights})
    else:
        _bertnli("verify", str(bundle))

    scores = folder.path / "scores.jsonl"
    restart = (
        ["--restart"] if exported["weights"] != (_saved(folder.path / "score.json") or exported).get("weights") else []
    )
    scored = _bertnli("score", str(bundle), paths["snli-test"], str(scores), *restart)
    before = _saved(folder.path / "score.json")
    if scored.get("pairs_per_second") or before is None:  # otherwise the scores existed before
        before = _save(folder.path / "score.json", {**scored, "weights": weights})
    scored = before

    summary = {
        "output": str(out),
        "accuracy": evaluation["accuracy"],
        "rows": evaluation["rows"],
        "confusion": evaluation["confusion"],
        "labels": evaluation["labels"],
        "training_pairs_per_second": training["pairs_per_second"],
        "scoring_pairs_per_second": scored["pairs_per_second"],
        "seconds_after_fetch": time.monotonic() - fetched,
        "seconds": time.monotonic() - began,
        "model": str(folder.model),
        "bundle": str(bundle),
        "scores": str(scores),
        "report": str(folder.report),
    }
    _write_report(folder, summary, training, evaluation, exported)
    _save(folder.path / "demo.json", summary)
    _print_table(summary)
    return summary


def _bertnli(*arguments: str) -> dict[str, Any]:
    """Run one bertnli command in a process of its own, as a user does. Returns its summary."""
    print(f"\n$ bertnli {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "bertnli.cli", *arguments, "--json"]
    code, output = run_child(command, environment=safe_path(os.environ), capture=True)
    lines = output.splitlines()
    if code:
        print(output, end="", flush=True)
        error = BertnliError(f"demo: `bertnli {shlex.join(arguments)}` ended with exit code {code}")
        error.exit_code = code
        raise error
    print("\n".join(lines[:-1]), flush=True)
    return json.loads(lines[-1])


def _saved(path: Path) -> dict[str, Any] | None:
    """The results that an earlier demo saved; None if there are none or they cannot be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _save(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    write_text(path, json.dumps(results, indent=1))
    return results


def _write_report(
    folder: RunFolder,
    summary: dict[str, Any],
    training: dict[str, Any],
    evaluation: dict[str, Any],
    exported: dict[str, Any],
) -> None:
    """Write the run's report again, with the results on the test split and of scoring."""
    low, high = evaluation["accuracy_interval"]
    report.write_report(
        folder.report,
        title="bertnli demo: MiniLM on SNLI",
        figures={
            "Accuracy": f"{summary['accuracy']:.4f} ({low:.4f} to {high:.4f}) on {summary['rows']:,} rows of SNLI test",
            "Training": f"{summary['training_pairs_per_second']:.1f} pairs/s",
            "Scoring": f"{summary['scoring_pairs_per_second']:.1f} pairs/s with ONNX Runtime",
            "ONNX against checkpoint": f"largest logit difference {exported['max_logit_difference']:.2g}, "
            f"{exported['label_flips']} labels changed",
        },
        metrics=read_metrics(folder.metrics_file),
        evaluations={"snli-test": evaluation},
        rows_by_label=training.get("rows_by_label", {}),
        provenance={**{name: summary[name] for name in ("model", "bundle", "scores")}, **provenance()},
        notes=notes_about(MODEL, DATA),
    )


def _print_table(summary: dict[str, Any]) -> None:
    labels = summary["labels"]
    width = max(map(len, labels)) + 2
    print("\n" + "=" * 72)
    print(f"accuracy on SNLI test   {summary['accuracy']:.4f} ({summary['rows']:,} labelled rows)")
    print(f"training                {summary['training_pairs_per_second']:.1f} pairs/s")
    print(f"scoring                 {summary['scoring_pairs_per_second']:.1f} pairs/s, ONNX Runtime, file to file")
    print(f"\n{'gold, then predicted:':<22}" + "".join(f"{label:>{width}}" for label in labels))
    for label, counts in zip(labels, summary["confusion"], strict=True):
        print(f"{label:<22}" + "".join(f"{count:>{width},}" for count in counts))
    print(f"\nreport   {summary['report']}\nmodel    {summary['model']}")
    print(f"bundle   {summary['bundle']}\nscores   {summary['scores']}")
    print(f"\n{summary['seconds_after_fetch']:.0f} s after the downloads. Next you can run:")
    print(f"  bertnli train {shlex.quote(str(RECIPE))} --set data.max_train_pairs=null --set output=runs/snli")
    print(f"  bertnli export {shlex.quote(summary['model'])} my-bundle")
    print(f"  bertnli score {shlex.quote(summary['bundle'])} your-pairs.tsv scores.tsv")
    print("=" * 72)
