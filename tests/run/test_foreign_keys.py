"""Names of other programs: every one has an answer, which names keys that exist and can be written so."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertnli.common.errors import InputError
from bertnli.run import foreign_keys
from bertnli.run.config import RunConfig
from bertnli.run.deepspeed_keys import KNOWN_KEYS
from bertnli.run.foreign_keys import CROSS_ENCODER, DEEPSPEED, DISTILLATION, SCRIPTS, TRAINING_ARGUMENTS
from bertnli.run.run_file import _known_keys, load_run, validate_run

EVERY = [TRAINING_ARGUMENTS, SCRIPTS, CROSS_ENCODER, DISTILLATION, DEEPSPEED]
BASE = {"model": "m", "output": "o", "data": {"train": "t"}, "epochs": 1, "keep_best": True}
VALUES = ("1", "10", "0.5", "cosine", "accuracy", "tensorboard", "bce", "[a, b]", "entailment", "balanced")


def fields(package: str, *path: str) -> list[str]:
    """The fields of a dataclass, from its source, because importing it takes seconds."""
    file = Path(find_spec(package).origin).parent.joinpath(*path)  # type: ignore[union-attr, arg-type]
    [found] = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef) and _is_data(node)]
    return [one.target.id for one in found.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]


def _is_data(node: ast.ClassDef) -> bool:
    return node.name.endswith("TrainingArguments")


def test_every_setting_of_transformers_and_sentence_transformers_has_an_answer() -> None:
    theirs = fields("transformers", "training_args.py")
    assert len(theirs) > 100 and "per_device_train_batch_size" in theirs
    assert [name for name in theirs if name not in {*TRAINING_ARGUMENTS, *RunConfig.model_fields}] == []
    parts = ("base", "training_args.py"), ("cross_encoder", "training_args.py")
    theirs = [name for part in parts for name in fields("sentence_transformers", *part)]
    assert {"batch_sampler", "learning_rate_mapping"} <= {*theirs}
    known = {*TRAINING_ARGUMENTS, *CROSS_ENCODER, *RunConfig.model_fields}
    assert [name for name in theirs if name not in known] == []


def test_every_key_of_deepspeed_has_an_answer() -> None:
    assert all(foreign_keys.find(name) for name in KNOWN_KEYS[""].split())
    assert {*DEEPSPEED} <= {*KNOWN_KEYS[""].split()}


def test_a_key_that_exists_here_is_not_in_the_tables() -> None:
    assert {name for table in EVERY for name in table} & {*RunConfig.model_fields} <= {"compile"}


@pytest.mark.parametrize("table", EVERY)
def test_what_the_answers_write_can_be_written(table: dict[str, foreign_keys.Here]) -> None:
    known = {*_known_keys(RunConfig)}
    for name, found in table.items():
        assert {key for key in foreign_keys.keys(found) if "…" not in key} <= known, name
        assert found.write or found.note or name in ("liger_kernel_config", "skip_memory_metrics"), name
        if not found.write or foreign_keys.keys(found)[0] == "deepspeed":
            continue
        labels = {"problem_type": "multi_label_classification", "labels": ["a", "b"]} if name == "pos_weight" else {}
        for value, other in product(VALUES, VALUES):
            written = yaml.safe_load(found.write.replace("VALUE", value).replace("…", other))
            keys = {key: value for key, value in BASE.items() if key != "epochs" or "max_steps" not in written}
            content = {
                **keys,
                **labels,
                **written,
                "data": {**BASE["data"], "eval": {"holdout": 1}, **written.get("data", {})},
            }
            with contextlib.suppress(InputError):
                validate_run(content, name)
                break
        else:
            pytest.fail(f"{name}: {found.write} is refused with any value")


OTHER_WORDS = {
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "adam_epsilon": "eps",
    "alpha_ce": "teacher.mix",
    "alpha_distil": "teacher.mix",
    "dev_file": "data.eval",
    "distillation_weight": "teacher.mix",
    "gradient_clip_val": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "kd_loss_weight": "teacher.mix",
    "llrd": "layer_decay",
    "lr": "learning_rate",
    "save_total_limit": "checkpoint.keep",
    "validation_file": "data.eval",
}
"""The keys that take the value of names that have no word in common with them."""


@pytest.mark.parametrize("table", EVERY)
def test_a_value_goes_to_the_key_that_means_the_same(table: dict[str, foreign_keys.Here]) -> None:
    for name, found in table.items():
        if "VALUE" not in found.write:
            continue
        [key] = [key for key, value in leaves(yaml.safe_load(found.write)) if "VALUE" in value]
        assert OTHER_WORDS.get(name, key) == key, name
        assert name in OTHER_WORDS or {*name.split("_")} & {*re.split("[_.]", key)}, name
    assert [TRAINING_ARGUMENTS[f"adam_beta{number}"].write for number in (1, 2)] == [
        f"betas: [VALUE, {RunConfig.model_fields['betas'].default[1]}]",
        f"betas: [{RunConfig.model_fields['betas'].default[0]}, VALUE]",
    ]


def leaves(content: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, str(value)


def test_a_teachers_settings_are_answered(tmp_path: Path) -> None:
    text = "model: m\noutput: o\ndata: {train: t}\nepochs: 1\n"
    text += "teacher_model_name_or_path: large\nalpha: 0.3\ntemperature: 4\n"
    assert sorted(refused(tmp_path, text)) == [
        "unknown key alpha; write teacher: {model: MODEL, mix: …} (the teacher's share of the loss: 1 - alpha where "
        "alpha is the share of the gold labels, as it mostly is)",
        "unknown key teacher_model_name_or_path; write teacher: large (a run, a model folder, a name, a hub id or a "
        "bundle)",
        "unknown key temperature; write teacher: {model: MODEL, temperature: 4} (of both models; the loss is "
        "multiplied by its square)",
    ]
    [inside] = refused(tmp_path, "model: m\noutput: o\ndata: {train: t}\nepochs: 1\nteacher: {model: t, alpha: 1}\n")
    assert inside.startswith("unknown key teacher.alpha; write teacher: {model: MODEL, mix: …}")


def refused(tmp_path: Path, text: str, *sets: str) -> list[str]:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError) as raised:
        load_run(tmp_path / "run.yaml", sets)
    lines = str(raised.value).splitlines()
    return [line.strip() for line in lines[1:]] or [lines[0].partition("run.yaml: ")[2]]


def test_a_trainers_settings_are_answered_one_by_one(tmp_path: Path) -> None:
    text = """
model_name_or_path: bert-base-uncased
output_dir: out
num_train_epochs: 3
per-device-train-batch-size: 16
warmup_ratio: 0.06
checkpoint: {save_total_limit: 1}
bf16: true
fp16: false
do_train: true
data: {train_file: a.csv}
zero_optimization: {stage: 2}
aio: {thread_count: 1}
"""
    assert sorted(refused(tmp_path, text)) == [
        "unknown key aio; write deepspeed: {aio: …}",
        "unknown key bf16; write precision: bf16 (auto, the default, takes it where the GPU has it)",
        "unknown key checkpoint.save_total_limit; write checkpoint: {keep: 1}",
        "unknown key data.train_file; write data: {train: a.csv}",
        "unknown key do_train; remove it (bertnli train trains)",
        "unknown key fp16; remove it; true would be precision: fp16 (with DeepSpeed's loss scaler)",
        "unknown key model_name_or_path; write model: bert-base-uncased",
        "unknown key num_train_epochs; write epochs: 3 (whole ones; for parts of an epoch give max_steps)",
        "unknown key output_dir; write output: out",
        "unknown key per-device-train-batch-size; write global_batch_size: … (pairs of a step over all ranks: the "
        "number per device x devices x accumulation)",
        "unknown key warmup_ratio; write warmup: 0.06 (the fraction of the steps; warmup_steps is a number of them)",
        "unknown key zero_optimization; write zero_stage: … (the stage; other keys of it in deepspeed: "
        "{zero_optimization: {…}})",
    ]


def test_what_is_not_of_another_program_is_answered_as_before(tmp_path: Path) -> None:
    text = "model: m\noutput: o\ndata: {train: t}\nepochs: 1\n"
    assert refused(tmp_path, text + "learning_rat: 1") == ["unknown key learning_rat; did you mean learning_rate?"]
    assert refused(tmp_path, text, "save_steps=7") == ["unknown key save_steps; write checkpoint: {every_steps: 7}"]
