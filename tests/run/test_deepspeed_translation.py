"""DeepSpeed configurations of others: what they say in a run file's keys, and where they contradict it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from bertnli.run.deepspeed_config import deepspeed_config
from bertnli.run.deepspeed_keys import KNOWN_KEYS, MAPS, mistake
from bertnli.run.folder import RunFolder, run_of_job
from bertnli.run.run_file import LoadedRun, load_run, read_run
from tests.support import deepspeed_files as files

BASE = {"model": "m", "data": {"train": "t"}, "output": "o", "epochs": 1}
WARMUP_500 = {"warmup_steps": 500, "warmup": None, "warmup_type": "log", "schedule": "constant"}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def loaded(settings: dict[str, Any], *sets: str, ranks: int | None = 2, **keys: Any) -> LoadedRun:
    """A run file with these settings in a DeepSpeed file beside it."""
    Path("ds.json").write_text(json.dumps(settings))
    Path("run.yaml").write_text(yaml.safe_dump({**BASE, **keys, "deepspeed": "ds.json"}))
    return read_run("run.yaml", sets, ranks)


def mistakes(settings: dict[str, Any], *sets: str, ranks: int | None = 2, **keys: Any) -> list[str]:
    """The lines of the error, without what is in front of them."""
    with pytest.raises(InputError) as raised:
        loaded(settings, *sets, ranks=ranks, **keys)
    first, *lines = str(raised.value).removeprefix("run file run.yaml: ").splitlines()
    assert not lines or first == f"{len(lines)} mistakes"
    return [line.strip().removeprefix("ds.json: ") for line in lines or [first]]


def filled(settings: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """What a DeepSpeed file sets in the run file that has `keys`."""
    ours = read_run_without_file(**keys)
    run = loaded(settings, **keys).config.model_dump()
    return {key: value for key, value in run.items() if value != ours[key] and key != "deepspeed"}


def read_run_without_file(**keys: Any) -> dict[str, Any]:
    Path("without.yaml").write_text(yaml.safe_dump({**BASE, **keys}))
    return load_run("without.yaml").model_dump()


@pytest.mark.parametrize(
    ("settings", "sets"),
    [
        (files.TRANSFORMERS_ZERO2, {"zero_stage": 2, "schedule": "constant", "warmup_type": "log"}),
        (files.TRANSFORMERS_ZERO3, {"zero_stage": 3, "warmup_type": "log"}),
        (
            files.TRANSFORMERS_ZERO3_VALUES,
            {"learning_rate": 3e-5, "betas": (0.8, 0.999), "weight_decay": 3e-7, "zero_stage": 3, **WARMUP_500},
        ),
        (files.TRANSFORMERS_ZERO2_SECTION, {"zero_stage": 2}),
        (
            files.BING_BERT_SQUAD,
            {"global_batch_size": 24, "learning_rate": 3e-5, "weight_decay": 0.0, "precision": "fp16"},
        ),
        (
            files.hello_deepspeed(),
            {"global_batch_size": 16, "learning_rate": 1e-4, "precision": "bf16", "zero_stage": 1},
        ),
        (
            files.BF16_BASELINE,
            {"global_batch_size": 8, "learning_rate": 1e-4, "precision": "bf16", "zero_stage": 3},
        ),
        (
            files.cifar("bf16", 2),
            {
                "global_batch_size": 16,
                "learning_rate": 1e-3,
                "betas": (0.8, 0.999),
                "weight_decay": 3e-7,
                "precision": "bf16",
                "zero_stage": 2,
                **WARMUP_500,
                "warmup_steps": 1000,
            },
        ),
        (files.AUTOTUNING_FP16_ZERO3, {"precision": "fp16", "zero_stage": 3}),
    ],
)
def test_files_of_others_are_taken_as_they_are(settings, sets):
    assert filled(settings) == sets
    run = loaded(settings).config
    for precision in ["bf16", "fp16", "fp32"] if run.precision == "auto" else [run.precision]:
        made = deepspeed_config(run, precision, 2)
        assert '"auto"' not in json.dumps(made) and "optimizer" not in made and "scheduler" not in made
        assert ("fp16" in made) == (precision == "fp16") and "bf16" not in made
        assert made["torch_autocast"]["enabled"] if precision == "bf16" else "torch_autocast" not in made
        assert made["zero_optimization"]["stage"] == run.zero_stage
    if settings is files.TRANSFORMERS_ZERO2:
        assert deepspeed_config(run, "fp16", 2)["fp16"] == {"enabled": True, **files.SCALER}
        assert made["zero_optimization"] == {**settings["zero_optimization"]}


def test_what_a_file_sets_and_what_has_no_use_is_said():
    sets, unused = loaded(files.BING_BERT_SQUAD).notes
    assert sets == (
        "ds.json sets precision: fp16, max_grad_norm: 1.0, global_batch_size: 24, learning_rate: 3e-05, "
        "weight_decay: 0.0"
    )
    assert unused.startswith("ds.json: no use here for optimizer.params.bias_correction (AdamW always corrects")
    assert all(key in unused for key in ("steps_per_print (", "train_micro_batch_size_per_gpu (micro-batches are cut"))
    assert loaded(files.BING_BERT_SQUAD, "deepspeed={gradient_clipping: 2}").notes == (
        "deepspeed sets max_grad_norm: 2",
    )
    assert loaded({"wall_clock_breakdown": False}).notes == ()


def test_what_the_run_file_says_too_may_agree_and_all_contradictions_are_told_at_once():
    agreeing = {"global_batch_size": 24, "learning_rate": "3e-5", "precision": "fp16", "weight_decay": 0}
    assert loaded(files.BING_BERT_SQUAD, **agreeing).notes[0] == "ds.json sets max_grad_norm: 1.0"
    other = {"global_batch_size": 32, "learning_rate": 1e-5, "precision": "fp32", "max_grad_norm": 0}
    said = mistakes({**files.BING_BERT_SQUAD, "zero_optimisation": {}}, **other)
    assert [line.partition("; ")[0] for line in said] == [
        "unknown key deepspeed.zero_optimisation",
        "deepspeed.fp16.enabled: true contradicts precision: fp32",
        "deepspeed.gradient_clipping: 1.0 contradicts max_grad_norm: 0.0",
        "deepspeed.train_batch_size: 24 contradicts global_batch_size: 32",
        "deepspeed.optimizer.params.lr: 3e-05 contradicts learning_rate: 1e-05",
    ]
    assert said[-1].endswith(
        "remove one of the two: --set deepspeed.optimizer.params.lr=auto leaves it to the run file"
    )
    left_out = loaded(files.BING_BERT_SQUAD, "deepspeed.optimizer.params.lr=auto", learning_rate=1e-5).config
    assert left_out.learning_rate == 1e-5 and left_out.weight_decay == 0.0


def test_the_last_step_is_that_of_the_schedule():
    decay = {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 300}}}
    run = loaded(decay, epochs=None).config
    assert (run.max_steps, run.epochs, run.schedule) == (300, None, "linear")
    [said] = mistakes(decay)
    assert said.startswith("deepspeed.scheduler.params.total_num_steps: 300 contradicts epochs: 1; remove one")
    warmup = {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 5}}}
    assert loaded(warmup, warmup_type="linear").config.warmup_type == "linear"  # it has a default there, no value
    assert mistakes(warmup, warmup=0.2)[0].startswith(
        "deepspeed.scheduler.params.warmup_num_steps: 5 contradicts warmup: 0.2"
    )
    [said] = mistakes(decay, max_steps=200, epochs=None)
    assert "total_num_steps: 300 contradicts max_steps: 200" in said


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("WarmupLR", {}),
        ("WarmupLR", {"warmup_type": "linear"}),
        ("WarmupDecayLR", {"total_num_steps": 100}),
        ("WarmupDecayLR", {"total_num_steps": 100, "warmup_type": "linear"}),
        ("WarmupCosineLR", {"total_num_steps": 100}),
    ],
)
def test_learning_rates_are_those_of_deepspeeds_scheduler(kind, more):
    """Its iteration n, from 0, is our step n. Its cosine is one iteration ahead, and ends at a ten-thousandth."""
    import torch
    from deepspeed.runtime import lr_schedules

    rate = {} if kind == "WarmupCosineLR" else {"warmup_min_lr": 0, "warmup_max_lr": 0.5}
    settings = {
        "optimizer": {"type": "AdamW", "params": {"lr": 0.5}},
        "scheduler": {"type": kind, "params": {"warmup_num_steps": 10, **rate, **more}},
    }
    run = loaded(settings, epochs=None, **({} if "total_num_steps" in more else {"max_steps": 100})).config
    adamw = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = getattr(lr_schedules, kind)(adamw, **settings["scheduler"]["params"])
    for step in range(100):
        scheduler.step()
        ahead = 1 if kind == "WarmupCosineLR" and step >= 10 else 0
        close = 1e-4 if ahead else 1e-12
        assert run.learning_rate_at(step + ahead, 100) == pytest.approx(scheduler.get_lr()[0], abs=close), step


def test_the_pairs_of_a_step_follow_from_the_ranks():
    step = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 3}
    for ranks, pairs in ((1, 12), (2, 24), (8, 96)):
        run = loaded(step, ranks=ranks)
        assert run.config.global_batch_size == pairs and run.by_ranks
    unknown = loaded(step, ranks=None).config  # as for `bertnli train` before torch is loaded
    assert unknown.global_batch_size == 256 and unknown.deepspeed == {}
    [said] = mistakes(step, global_batch_size=32)
    assert "x gradient_accumulation_steps x ranks: 4 x 3 x 2 contradicts global_batch_size: 32" in said
    assert "--set deepspeed.train_micro_batch_size_per_gpu=auto" in said
    assert not loaded(step, global_batch_size=24).by_ranks
    # DeepSpeed would find the steps of accumulation itself.
    assert loaded({"train_micro_batch_size_per_gpu": 4}, global_batch_size=32).config.global_batch_size == 32
    assert loaded({"gradient_accumulation_steps": 4}).config.global_batch_size == 256
    assert loaded({"train_batch_size": 24, **step}).config.global_batch_size == 24
    assert "24 is not train_micro_batch_size_per_gpu x" in mistakes({"train_batch_size": 24, **step}, ranks=3)[0]
    assert "found 4 x 3 x a number of ranks" in mistakes({"train_batch_size": 25, **step}, ranks=None)[0]
    assert mistakes({"train_micro_batch_size_per_gpu": 2.5}) == [
        "deepspeed.train_micro_batch_size_per_gpu; found 2.5; expected a whole number from 1"
    ]


def test_a_run_goes_on_with_the_pairs_of_its_first_job():
    before = loaded(files.hello_deepspeed()).config
    RunFolder("o").claim(before)
    on_one = run_of_job("run.yaml", [], 1)
    assert on_one.config == before and before.global_batch_size == 16
    assert on_one.notes[-1] == "global_batch_size: 16, as the run began on another number of ranks"
    RunFolder("o").check(on_one.config)
    assert run_of_job("run.yaml", [], 2).notes == loaded(files.hello_deepspeed()).notes


def test_the_runs_folder_keeps_the_content_and_notices_another():
    run = loaded(files.TRANSFORMERS_ZERO2, output="o").config
    folder = RunFolder("o")
    folder.claim(run)
    Path("ds.json").unlink()
    assert load_run(folder.run_file) == run
    changed = {**files.TRANSFORMERS_ZERO2, "gradient_clipping": 3}
    with pytest.raises(InputError, match="other settings; found max_grad_norm: 1"):
        folder.check(loaded(changed).config)
    folder.check(loaded({**files.TRANSFORMERS_ZERO2, "steps_per_print": 1}).config)


def test_precision():
    def of(**enabled: Any) -> str:
        return loaded({name: {"enabled": value} for name, value in enabled.items()}).config.precision

    assert of(fp16=True, bf16="auto") == "fp16" and of(bf16=True, fp16=False) == "bf16" and of(bfloat16=True) == "bf16"
    assert of(fp16=False) == of(bf16=False) == of(fp16=False, bf16=False) == "fp32"
    assert of(fp16="auto") == of(fp16="auto", bf16=False) == of(fp16="auto", bf16="auto") == "auto"
    assert of(torch_autocast=True) == "bf16" and of(amp="auto") == "auto"
    assert "are both true" in mistakes({"fp16": {"enabled": True}, "bf16": {"enabled": True}})[0]
    assert "found 'yes'" in mistakes({"fp16": {"enabled": "yes"}})[0]
    # off is no precision of its own: another one does not contradict it
    assert loaded({"fp16": {"enabled": False}}, precision="bf16").config.precision == "bf16"
    assert (
        "bf16.enabled: false contradicts precision: bf16" in mistakes({"bf16": {"enabled": False}}, precision="bf16")[0]
    )
    off_with_scaler = loaded({"fp16": {"enabled": False, **files.SCALER}}).config
    assert "fp16" not in deepspeed_config(off_with_scaler, "fp32", 1)
    assert "are the same section" in mistakes({"bf16": {"enabled": False}, "bfloat16": {"enabled": True}})[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"optimizer": {"type": "OneBitAdam", "params": {"freeze_step": 9}}},
            "type: OneBitAdam; expected AdamW or Adam",
        ),
        ({"optimizer": {"type": "AdamW", "params": {"lrr": 1}}}, "unknown key deepspeed.optimizer.params.lrr; did you"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, "weight decay is AdamW's; remove it"),
        ({"optimizer": {"params": {"lr": "fast"}}}, "deepspeed.optimizer.params.lr: found 'fast'; input should be a"),
        ({"optimizer": "AdamW"}, "deepspeed.optimizer; found 'AdamW'; expected a map of keys"),
        ({"optimizer": {"params": {"lr": None}}}, "deepspeed.optimizer.params.lr: found null"),
        (
            {"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 0}}},
            "OneCycle; expected WarmupLR or WarmupDecay",
        ),
        (
            {"scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": 1e-5}}},
            "warmup_min_lr: 1e-05 cannot be used here",
        ),
        ({"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, "bf16 is torch.autocast, with weights in"),
        ({"zero_optimization": {"stage": 4}}, "deepspeed.zero_optimization.stage: found 4"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "device: nvme cannot be used here"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "does not go with zero_stage: 0; set zero_stage: 1",
        ),
        ({"optimizer.params.lr": 1e-3}, "unknown key 'optimizer.params.lr' in deepspeed, as its name has a dot"),
        *[
            ({"optimizer": {"params": {name: {"value": 1}}}}, f"{name}; found {{'value': 1}}; expected one value")
            for name in ("lr", "betas", "adam_w_mode")
        ],
        ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": {}}}}, "found {}; expected one value"),
        ({"gradient_clipping": {"value": 1}}, "deepspeed.gradient_clipping; found {'value': 1}; expected one value"),
        ({"fp16": {"enabled": {"value": True}}}, "deepspeed.fp16.enabled; found {'value': True}; expected one value"),
        ({"amp": {"enabled": True}}, "deepspeed.amp: cannot be used here: DeepSpeed no longer has it; remove it"),
        ({"sparse_attention": {"mode": "fixed"}}, "deepspeed.sparse_attention: cannot be used here"),
        ({"sparse_gradients": True}, "deepspeed.sparse_gradients: cannot be used here"),
        (
            {"compression_training": {"weight_quantization": {"shared_parameters": {"enabled": True}}}},
            "deepspeed.compression_training: cannot be used here: DeepSpeed no longer has it",
        ),
        ({"train_batch_size": True}, "deepspeed.train_batch_size; found True; expected a number"),
        (
            {"zero_optimization": {"stgae": "auto"}},
            "unknown key deepspeed.zero_optimization.stgae; did you mean stage?",
        ),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(settings, expected):
    [said] = mistakes(settings)
    assert expected in said


def test_values_that_change_only_speed_are_left_out():
    overlap = {"zero_optimization": {"overlap_comm": True, "round_robin_gradients": True}}
    assert loaded(overlap).config.deepspeed == {}
    assert "zero_optimization.overlap_comm (it needs zero_stage 2 or 3)" in loaded(overlap).notes[0]
    assert loaded(overlap, zero_stage=2).config.deepspeed == {"zero_optimization": {"overlap_comm": True}}
    rates = {"optimizer": {"params": {"lr": 1e-3}}, "scheduler": {"params": {"warmup_max_lr": 1e-4}}}
    sets, unused = loaded(rates).notes
    assert "learning_rate: 0.0001" in sets and "optimizer.params.lr (warmup_max_lr holds, as in DeepSpeed)" in unused


def test_modes_of_older_versions_are_left_out_if_they_are_off():
    off = {"enabled": False, "max_train_batch_size": 8}
    older = {"elasticity": off, "nebula": {}, "sparse_gradients": False, "amp": {"enabled": "auto", "opt_level": "O1"}}
    assert loaded(older).config == loaded({}).config


def test_a_key_that_takes_a_map_has_one():
    assert all(mistake(key, {}) is None for key in MAPS.split())
    assert {*MAPS.split()} < {*_LEAVES}
    wanted = {"flops_profiler": {"enabled": False}, "zero_optimization": {"leaf_module": {"classes": []}}}
    assert loaded(wanted).config.deepspeed == wanted


def test_ways_to_name_a_file(tmp_path):
    Path("run.yaml").write_text(yaml.safe_dump(BASE))
    Path("a.json").write_text('// of a colleague\n{"gradient_clipping": 2, # 1 before\n}')
    assert load_run("run.yaml", ["deepspeed=a.json"]).max_grad_norm == 2
    assert load_run("run.yaml", ["deepspeed=a.json", "deepspeed.gradient_clipping=3"]).max_grad_norm == 3
    replaced = read_run("run.yaml", ["deepspeed=a.json", "deepspeed={}"])
    assert replaced.config.max_grad_norm == 1 and replaced.deepspeed_file is None
    assert read_run("run.yaml", [f"deepspeed={tmp_path / 'a.json'}"]).deepspeed_file == str(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "deepspeed: ds.json; found no such file; expected a DeepSpeed configuration in JSON"),
        ("[1]", "deepspeed: ds.json; found list; expected a JSON object"),
        ('{"fp16": {}, "fp16": {}}', "deepspeed: ds.json: the key 'fp16' a second time; remove one of the two"),
        ('{"fp16": {', "deepspeed: ds.json: not JSON: Expecting property name"),
        ("caf\udce9", "in UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_the_other_mistakes(text, expected):
    if text is not None:
        Path("ds.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    Path("run.yaml").write_text(yaml.safe_dump({**BASE, "deepspeed": "ds.json", "epochs": 0}))
    with pytest.raises(InputError) as raised:
        load_run("run.yaml")
    first, second = str(raised.value).splitlines()[1:]
    assert expected in first and "epochs" in second


_LEAVES = [f"{section}.{name}".lstrip(".") for section, names in KNOWN_KEYS.items() for name in names.split()]
_SCALARS = ["auto", None, True, False, 0, 1, 2, 8, 0.5, 1e9, -1, "cpu", "AdamW", "WarmupLR", "WarmupDecayLR", "log"]
_MAPS = [{}, {"enabled": True}, {"type": "Adam", "params": {"lr": "auto"}}]
_VALUES = st.sampled_from([*_SCALARS, [0.8, 0.999], [], *_MAPS])


@hypothesis.settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(_LEAVES), _VALUES, max_size=6), st.booleans())
def test_any_configuration_is_taken_or_refused(flat, known):
    """Never another exception; and what is taken is read back from run.yaml as the same run, whatever its ranks."""
    content: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = content
        for section in sections:
            inner = inner.setdefault(section, {}) if isinstance(inner.get(section, {}), dict) else {}
        inner[name] = copy.deepcopy(value)
    Path("any.json").write_text(json.dumps(content))
    Path("run.yaml").write_text(yaml.safe_dump({**BASE, "deepspeed": "any.json"}))
    try:
        run = read_run("run.yaml", [], 2 if known else None)
    except InputError:
        return
    Path("resolved.yaml").write_text(run.config.to_yaml())
    again = read_run("resolved.yaml", [], 3)
    assert again.config == run.config and again.notes == ()
