"""The run file's `deepspeed:`: contradictions and modes that cannot work are refused by name, the other modes train."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.run.config import RunConfig
from bertnli.run.deepspeed_config import DECIDED_BY, NOT_HERE, STAGES, deepspeed_config
from bertnli.run.deepspeed_keys import KNOWN_KEYS, NUMBERS
from bertnli.run.deepspeed_translation import ONE_WAY, SAME, SCHEDULES
from bertnli.run.run_file import validate_run
from tests.support.runs import on_ranks


def run(deepspeed: dict[str, Any] | None = None, **keys: Any) -> RunConfig:
    base = {"model": "m", "data": {"train": "t"}, "output": "o", "epochs": 1}
    return validate_run({**base, **keys, "deepspeed": deepspeed or {}}, "run.yaml")


def nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def message(deepspeed: dict[str, Any], precision: str = "fp32", world: int = 1, **keys: Any) -> str:
    with pytest.raises(InputError) as raised:
        deepspeed_config(run(deepspeed, **keys), precision, world)
    return str(raised.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("zero_optimisation.stage", 2, "unknown key deepspeed.zero_optimisation; did you mean zero_optimization?"),
        ("zero_optimization.overlap_com", True, "did you mean overlap_comm?"),
        ("zero_optimization.offload_optimizer.devise", "cpu", "did you mean device?"),
        ("torch_autocast.enable", True, "did you mean enabled?"),  # DeepSpeed itself would ignore this one
        ("quantize_training", {"enabled": True}, "deepspeed.quantize_training: cannot be used here"),
        ("zero_optimization", True, "expected a map of keys"),
        ("zero_optimization.stage", 2, "deepspeed.zero_optimization.stage: 2 contradicts zero_stage: 0"),
        ("gradient_allreduce_op", "sum", "contradicts 'mean'"),
        ("zero_force_ds_cpu_optimizer", True, "contradicts False"),
        ("tensor_parallel.autotp_size", 2, "set zero_stage: 3"),
        ("activation_checkpointing.partition_activations", True, "set gradient_checkpointing: true"),
        ("zero_optimization.cpu_offload", True, "set offload_optimizer: {device: cpu}"),
        ("weight_quantization.enabled", True, "bertnli export --precision int8"),
    ],
)
def test_what_contradicts_or_cannot_work_is_refused_by_name(key, value, expected):
    text = message(nested(key, value), zero_stage=int(".offload_optimizer" in key))
    assert expected in text and text.startswith("run file run.yaml: ")  # when it is read: no device, no ranks
    assert "mistakes" not in text


def test_all_contradictions_are_reported_at_once():
    zero = {"stage": 2, "overlap_comm": True, "offload_optimizer": {"device": "nvme"}, "zenflow": {"topk_ratio": 0.1}}
    given = {"optimizer": {"type": "Lamb"}, "gradient_clipping": 5.0, "zero_optimization": zero, "autotune": 1}
    lines = message(given, max_grad_norm=1.0, zero_stage=0).splitlines()
    assert lines[0] == "run file run.yaml: 7 mistakes"
    keys = [line.split("deepspeed.")[1].split(":")[0].split(";")[0].split(" ")[0] for line in lines[1:]]
    section = "zero_optimization."
    assert keys == [
        *("optimizer.type", "autotune", "gradient_clipping", f"{section}stage", f"{section}offload_optimizer"),
        *(f"{section}offload_optimizer.device", f"{section}zenflow"),
    ]


def test_all_that_does_not_go_with_the_device_and_the_ranks_is_reported_at_once():
    given = {"fp16": {"loss_scale_window": 9}, **nested("zero_optimization.zero_hpz_partition_size", 4)}
    text = message(given, "fp32", 6, zero_stage=3, global_batch_size=4)
    assert text.startswith("run file: 3 mistakes\n")
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        *("global_batch_size:", "deepspeed.fp16", "deepspeed.zero_optimization.zero_hpz_partition_size:")
    ]


@pytest.mark.parametrize(
    ("key", "value", "works"),
    [
        ("zero_optimization.offload_optimizer", {"device": "cpu"}, {1, 2, 3}),
        ("zero_optimization.offload_param", {"device": "cpu"}, {3}),
        ("zero_optimization.zero_hpz_partition_size", 2, {3}),
        ("prescale_gradients", True, {0, 1}),
        ("gradient_predivide_factor", 2.0, {0, 1}),
        ("data_types.grad_accum_dtype", "fp32", {1, 2, 3}),
    ],
)
def test_modes_that_need_a_stage(key, value, works):
    for stage in range(4):
        if stage in works:
            deepspeed_config(run(nested(key, value), zero_stage=stage), "fp32", 2)
        else:
            text = message(nested(key, value), zero_stage=stage)
            assert f"deepspeed.{key} does not go with zero_stage: {stage}; set zero_stage: " in text
            deepspeed_config(run(nested(key, value), zero_stage=int(text.split("set zero_stage: ")[1][0])), "fp32", 2)
    assert set(STAGES[key]) == works


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("zero_optimization.offload_optimizer.device", "none"),
        ("zero_optimization.offload_param", {"device": "none"}),
        ("zero_optimization.overlap_comm", False),
        ("zero_optimization.zero_hpz_partition_size", 1),
        ("zero_optimization.zero_quantized_weights", False),
        ("gradient_predivide_factor", 1.0),
        ("tensor_parallel", {"enabled": False}),
        ("activation_checkpointing", {"partition_activations": False, "number_checkpoints": None}),
    ],
)
def test_a_mode_that_is_off_is_accepted(key, value):
    deepspeed_config(run(nested(key, value)), "fp32", 1)


def test_offload_to_disk_and_partial_offload_are_refused():
    offload = "zero_optimization.offload_optimizer"
    assert "set device: cpu" in message(nested(f"{offload}.device", "nvme"), zero_stage=3)
    assert "compiled extension" in message(nested(offload, {"device": "cpu", "ratio": 0.5}), zero_stage=3)


def test_gradient_norm_can_be_off_only_where_nothing_is_clipped():
    off = nested("zero_optimization.compute_grad_norm", False)
    text = message(off, zero_stage=2)
    assert "max_grad_norm: 1.0 and zero_stage: 2" in text and "set max_grad_norm: 0" in text
    message(off, zero_stage=3, max_grad_norm=0)
    deepspeed_config(run(off, zero_stage=2, max_grad_norm=0), "fp32", 1)


def test_what_depends_on_the_device():
    scaler = {"fp16": {"loss_scale_window": 100}}
    assert deepspeed_config(run(scaler), "fp16", 1)["fp16"] == {"enabled": True, "loss_scale_window": 100}
    text = message(scaler, "bf16")
    assert "deepspeed.fp16 contradicts the run file's precision; found precision: auto, so bf16 on this device" in text
    assert "set precision: fp16" in text
    assert "set precision: bf16" in message(nested("torch_autocast.lower_precision_safe_modules", []), "fp32")
    for off, other in (("fp16", "bf16"), ("bf16", "fp16")):
        text = message({off: {"enabled": False}, other: {"enabled": "auto"}}, off)
        assert f"deepspeed.{off}.enabled: false contradicts the run file's precision; found precision: auto" in text
    assert "lower_precision_safe_modules" in message({"communication_data_type": "bf16"}, "bf16", zero_stage=2)
    deepspeed_config(run({"communication_data_type": "bf16"}, zero_stage=2), "fp32", 1)


def test_what_depends_on_the_ranks():
    text = message({}, world=300)
    assert "global_batch_size: 256 does not go with 300 ranks" in text
    assert "set global_batch_size: 300, or start 256 ranks" in text
    deepspeed_config(run(), "fp32", 256)
    group = nested("zero_optimization.zero_hpz_partition_size", 4)
    assert "4 does not divide 6 ranks; set it to 3" in message(group, world=6, zero_stage=3)
    deepspeed_config(run(group, zero_stage=3), "fp32", 8)
    deepspeed_config(run(group, zero_stage=3), "fp32", 2)  # all of them


def test_the_users_part_is_merged():
    theirs = {"wall_clock_breakdown": True, "zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    settings = deepspeed_config(run(theirs, zero_stage=2, max_grad_norm=3.0), "bf16", 1)
    assert settings["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    assert settings["wall_clock_breakdown"] is True and settings["gradient_clipping"] == 3.0
    rounded = nested("torch_autocast.lower_precision_safe_modules", ["torch.nn.Linear"])
    given = deepspeed_config(run(rounded), "bf16", 1)["torch_autocast"]
    assert given == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": ["torch.nn.Linear"]}
    settings = deepspeed_config(run({"zero_optimization": {}}, zero_stage=2), "fp32", 1)
    assert settings["zero_optimization"] == {"stage": 2}


# ------------------------------------------------------------------------------------- DeepSpeed's own parser


@pytest.fixture(scope="module")
def parser():
    from bertnli.train import engine  # tells DeepSpeed the device before it imports it

    return engine.deepspeed.runtime.config.DeepSpeedConfig


def test_known_keys_are_those_that_deepspeed_reads(parser):
    from deepspeed.runtime.config import _REMOVED_TOP_LEVEL_CONFIG_KEYS
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    asked = set()

    class Asked(dict):
        """A configuration that notes what it is asked for."""

        def __contains__(self, key):
            asked.add(key)
            return super().__contains__(key)

        def get(self, key, default=None):
            asked.add(key)
            return super().get(key, default)

        def keys(self):
            return self

    parser(Asked(train_micro_batch_size_per_gpu=1))
    # `sequence_parallel_size` is asked for in a process group only.
    assert set(KNOWN_KEYS[""].split()) == asked - set(_REMOVED_TOP_LEVEL_CONFIG_KEYS) | {"sequence_parallel_size"}
    for section, model in {
        "bf16": DeepSpeedBF16Config,
        "fp16": DeepSpeedFP16Config,
        "zero_optimization": DeepSpeedZeroConfig,
        "zero_optimization.offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
        "zero_optimization.offload_param": DeepSpeedZeroOffloadParamConfig,
    }.items():
        aliases = {field.alias for field in model.model_fields.values() if field.alias}
        numbers = {name for name, field in model.model_fields.items() if _takes_numbers(field.annotation)}
        assert numbers <= set(NUMBERS.split())
        assert set(KNOWN_KEYS[section].split()) == set(model.model_fields) | aliases


def test_known_keys_of_optimizers_and_schedules_are_those_of_deepspeed():
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.runtime import lr_schedules
    from deepspeed.runtime.config import ADAM_W_MODE, TORCH_ADAM_PARAM

    def parameters(*types: type) -> set[str]:
        return {name for each in types for name in inspect.signature(each).parameters}

    adam = parameters(DeepSpeedCPUAdam) - {"model_params", "adamw_mode"} | {ADAM_W_MODE, TORCH_ADAM_PARAM}
    assert set(KNOWN_KEYS["optimizer.params"].split()) == adam
    schedules = parameters(*(getattr(lr_schedules, name) for name in SCHEDULES)) - {"optimizer"}
    assert set(KNOWN_KEYS["scheduler.params"].split()) == schedules


def _takes_numbers(annotation: Any) -> bool:
    members = typing.get_args(annotation) or (annotation,)
    return bool not in members and bool({int, float} & set(members))


def test_rules_are_about_keys_that_exist():
    assert set(NUMBERS.split()) <= {name for keys in KNOWN_KEYS.values() for name in keys.split()}
    for key in {**DECIDED_BY, **NOT_HERE, **STAGES, **SAME, **ONE_WAY}:
        section, _, name = key.rpartition(".")
        assert name in KNOWN_KEYS[section].split(), key


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_takes_ours(parser, stage):
    for precision in ("fp32", "bf16", "fp16"):
        deepspeed_config(run(zero_stage=stage), precision, 1, parser)


@pytest.mark.parametrize(
    ("deepspeed", "expected"),
    [
        ({"zero_optimization": {"reduce_bucket_size": "big"}}, "deepspeed.zero_optimization.reduce_bucket_size; found"),
        ({"csv_monitor": {"enabeld": True}}, "deepspeed.csv_monitor.enabeld"),
        ({"comms_logger": {"verbos": True}}, "deepspeed.comms_logger.verbos"),
        ({"communication_data_type": "fp8"}, "Supported data types"),
        ({"comms_logger": True}, "DeepSpeed does not accept it"),
    ],
)
def test_what_deepspeed_does_not_accept_is_an_input_error(parser, deepspeed, expected):
    deepspeed_config(run(deepspeed), "fp32", 1)  # we have no rule for these
    with pytest.raises(InputError) as raised:
        deepspeed_config(run(deepspeed), "fp32", 1, parser)
    assert expected in str(raised.value)


# ------------------------------------------------------------------------------------- accepted modes train

OFFLOAD = {"device": "cpu"}
BOTH = nested("zero_optimization", {"offload_optimizer": OFFLOAD, "offload_param": OFFLOAD})
MODES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "ZeRO-0": ("fp32", 0, {}),
    "ZeRO-1": ("fp32", 1, {}),
    "optimizer offloaded, ZeRO-1": ("fp32", 1, nested("zero_optimization.offload_optimizer", OFFLOAD)),
    "optimizer offloaded, ZeRO-2": ("fp32", 2, nested("zero_optimization.offload_optimizer", OFFLOAD)),
    "both offloaded, ZeRO-3": ("fp32", 3, BOTH),
    "overlapped, ZeRO-2": ("fp32", 2, nested("zero_optimization.overlap_comm", True)),
    "grouped, ZeRO-3": ("fp32", 3, nested("zero_optimization.zero_hpz_partition_size", 2)),
    "predivided, ZeRO-1": ("fp32", 1, {"gradient_predivide_factor": 2.0}),
    "bf16, ZeRO-0": ("bf16", 0, {}),
    "bf16, ZeRO-1": ("bf16", 1, {}),
    "bf16, ZeRO-2": ("bf16", 2, {}),
    "bf16, ZeRO-3": ("bf16", 3, {}),
}  # fmt: skip


def train_in_every_mode() -> list[str]:
    """One rank's part: every mode trains as ZeRO-0 does, and its state, put into a fresh engine, goes on exactly.

    Returns the modes that it has trained.
    """
    import torch

    from bertnli.train.engine import Engine, ProcessGroup

    group = ProcessGroup()

    def engine(mode: str) -> Engine:
        precision, stage, deepspeed = MODES[mode]
        torch.manual_seed(0)
        # sizes that two ranks do not divide
        model = torch.nn.Sequential(torch.nn.Linear(7, 13), torch.nn.LayerNorm(13), torch.nn.Linear(13, 3))
        config = run(deepspeed, zero_stage=stage)
        return Engine(model, deepspeed_config(config, precision, group.world), config, group)

    def losses(engine: Engine, steps: range) -> list[float]:
        found = []
        for step in steps:
            total = torch.zeros(())
            for micro_batch in range(2):
                draw = torch.Generator().manual_seed(1000 * step + 10 * micro_batch + group.rank)
                inputs, labels = torch.randn(8, 7, generator=draw), torch.randint(3, (8,), generator=draw)
                loss = torch.nn.functional.cross_entropy(engine(inputs).float(), labels, reduction="sum")
                engine.backward(loss / (16 * group.world))
                total += loss.detach()
            engine.step(0.05)
            found.append(group.sum([total.item()])[0])
        return found

    trained: list[str] = []
    reference: dict[str, tuple[list[float], dict[str, torch.Tensor]]] = {}
    for mode, (precision, _, _) in MODES.items():
        straight = engine(mode)
        before = losses(straight, range(3))
        half = {name: tensor.clone() for name, tensor in straight.state().items()}
        after, end = losses(straight, range(3, 6)), straight.state()
        resumed = engine(mode)
        resumed.load_state(half, 3)
        assert losses(resumed, range(3, 6)) == after, f"{mode}: other losses when it goes on"
        assert all(torch.equal(end[name], tensor) for name, tensor in resumed.state().items()), f"{mode}: other state"
        first, state = reference.setdefault(precision, (before + after, end))
        assert before + after == pytest.approx(first, rel=1e-5), f"{mode}: other losses than ZeRO-0"
        for name, tensor in end.items():
            torch.testing.assert_close(tensor, state[name], rtol=1e-3, atol=1e-5, msg=f"{mode}: {name}")
        trained.append(mode)
    group.barrier()
    return trained


def test_accepted_modes_train_and_resume_on_two_ranks():
    assert on_ranks(2, train_in_every_mode) == list(MODES)
