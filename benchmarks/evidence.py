"""Can `bertnli eval` be trusted? Shown on a real model: MiniLM trained on 20,000 pairs of SNLI.

The last checkpoint, the model folder, the bundle and transformers' own evaluation give the same figures; a temperature
calibrates rows that it was not fitted on; a warning appears if labels are swapped, and only then; and how much of the
accuracy is annotation artefact. Training and evaluation are the commands that a user gives.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.accuracy import evaluate
from benchmarks.harness import Say
from benchmarks.peers.bertnli_train import train
from bertnli.common.errors import RunError

BATCH_SIZE, HELD_OUT = 32, 5000
SETTINGS = {"epochs": 1, "learning_rate": 1e-4, "global_batch_size": BATCH_SIZE, "seed": 0, "report_to": "none"}
PRECISIONS = ("fp32", "int8")
_CALIBRATION = ("ece", "brier", "loss", "accuracy")


def evidence(folder: Path, model: str, data: str, test: str, pairs: int, say: Say) -> dict[str, Any]:
    """Train on `pairs` rows of `data` drawn at random, fit a temperature on other rows, measure on all of `test`."""
    held_out_rows = min(HELD_OUT, pairs)
    training, held_out = _drawn(folder, data, (pairs, held_out_rows))
    say(f"training on {pairs:,} pairs, with premises and without")
    run = _train(folder / "run", model, training)
    blind = _train(folder / "hypothesis-only", model, training, {"hypothesis_only": True})

    sources = {"checkpoint": max((run / "checkpoints").glob("step-*")), "folder": run / "model"}
    for precision in PRECISIONS:
        sources[f"bundle-{precision}"] = exported(run / "model", folder / f"bundle-{precision}", precision)
    found = {}
    for how, path in sources.items():
        found[how] = evaluate(path, test)
        say(f"{how}: accuracy {found[how]['accuracy']:.4f}")
    same = {how: _chosen(one, "accuracy", "rows", "loss", "confusion") for how, one in found.items()}
    same["transformers"] = _by_transformers(run / "model", test)
    say(f"transformers: accuracy {same['transformers']['accuracy']:.4f}")

    calibrated = folder / "calibrated"
    shutil.copytree(run / "model", calibrated)
    fitted = evaluate(calibrated, test, "--calibrate", str(held_out))
    swapped = _with_swapped_labels(run / "model", folder / "swapped")
    return {
        "name": "evidence",
        "kind": "evidence",
        **machine.describe(),
        "work": {
            "rows_from": data,
            "rows": pairs,
            "batch_size": BATCH_SIZE,
            "test": test,
            "held_out_rows": held_out_rows,
        },
        "options": SETTINGS,
        "same": same,
        "calibration": {
            "temperature": fitted["temperature"],
            "before": _chosen(found["folder"], *_CALIBRATION),
            "after": _chosen(fitted, *_CALIBRATION),
        },
        "warned": {
            "good": found["folder"]["swapped_labels"],
            "swapped": evaluate(swapped, test)["swapped_labels"],
        },
        "artefact": {
            "shuffled_premises": evaluate(run / "model", test, "--shuffle-premises")["accuracy"],
            "hypothesis_only": evaluate(blind, test)["accuracy"],
            "largest_class": max(map(sum, same["folder"]["confusion"])) / same["folder"]["rows"],
        },
    }


def _drawn(folder: Path, data: str, counts: Sequence[int]) -> list[Path]:
    """Files with these numbers of labelled rows; no row is in two of them."""
    from bertnli.data.labelled import read_labelled
    from bertnli.data.labels import SNLI_ORDER
    from bertnli.evaluation.data_sets import open_set

    rows = list(read_labelled(open_set(data).file, SNLI_ORDER))
    random.Random(0).shuffle(rows)
    files = []
    for count in counts:
        chosen, rows = rows[:count], rows[count:]
        if len(chosen) < count:
            raise RunError(f"{data}: too few rows", found=str(len(chosen)), expected=f"{count} more")
        files.append(folder / f"rows-{len(files)}.jsonl")
        lines = [
            {"sentence1": row.premise, "sentence2": row.hypothesis, "gold_label": SNLI_ORDER[row.label]}
            for row in chosen
        ]
        files[-1].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return files


def _train(output: Path, model: str, rows: Path, more: Mapping[str, Any] | None = None) -> Path:
    train({"model": model, "data": {"train": str(rows), **(more or {})}, "output": str(output), **SETTINGS})
    return output


def exported(model: Path, bundle: Path, precision: str) -> Path:
    from bertnli_export.build import export_bundle

    from bertnli.model import pretrained

    export_bundle(pretrained.load(model), bundle, precision=precision)
    return bundle


def _by_transformers(model: Path, test: str) -> dict[str, Any]:
    """The Trainer's own evaluation of the folder, loaded by the Auto classes."""
    import numpy as np
    import transformers

    from bertnli.data.labelled import read_labelled
    from bertnli.evaluation.data_sets import open_set

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model)
    names = [classifier.config.id2label[index] for index in range(classifier.config.num_labels)]
    rows = [
        {**tokenizer(row.premise, row.hypothesis, truncation=True), "labels": row.label}
        for row in read_labelled(open_set(test).file, names)
    ]
    confusion = np.zeros((len(names), len(names)), np.int64)

    def metrics(prediction: Any) -> dict[str, float]:
        np.add.at(confusion, (prediction.label_ids, prediction.predictions.argmax(axis=1)), 1)
        return {"accuracy": float((prediction.predictions.argmax(axis=1) == prediction.label_ids).mean())}

    options = transformers.TrainingArguments(
        output_dir=str(model.parent / "trainer"), per_device_eval_batch_size=32, disable_tqdm=True, report_to=[]
    )
    trainer = transformers.Trainer(
        classifier,
        options,
        eval_dataset=rows,  # type: ignore[arg-type]
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=metrics,
    )
    found = trainer.evaluate()
    return {
        "accuracy": found["eval_accuracy"],
        "rows": len(rows),
        "loss": found["eval_loss"],
        "confusion": confusion.tolist(),
    }


def _with_swapped_labels(model: Path, to: Path) -> Path:
    """A copy whose config swaps the names of the first and the last output."""
    shutil.copytree(model, to)
    config = json.loads((to / "config.json").read_text())
    names = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
    names[0], names[-1] = names[-1], names[0]
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (to / "config.json").write_text(json.dumps(config))
    return to


def _chosen(found: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: found[key] for key in keys}
