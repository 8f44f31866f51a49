"""What is sent to a machine with a GPU, and what is checked there before anything is timed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bertnli_export import parity

from benchmarks import gpu, gpu_checks, machine, work
from benchmarks.__main__ import main
from benchmarks.table import body
from bertnli.common.errors import InputError, RunError
from tests.support import tiny
from tests.support.benchmarked import snli_file
from tests.support.cuda_operators import no_gpu, stand_in_gpu


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return snli_file(tmp_path, 400)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.hf_folder(tmp_path / "tiny", max_positions=128)


@pytest.fixture
def inputs(rows: Path, model: Path) -> gpu.Inputs:
    return gpu.Inputs(model, rows, rows, {"model": "tiny", "train": "tiny rows", "test": "tiny rows"})


def test_what_a_machine_without_network_needs_is_carried(inputs: gpu.Inputs, tmp_path: Path) -> None:
    from bertnli.data.pairs import PairFile
    from bertnli.model import pretrained

    gpu.carry(inputs, tmp_path / "carried")
    there = gpu.carried(tmp_path / "carried")
    size = (there.model / "model.safetensors").stat().st_size / (inputs.model / "model.safetensors").stat().st_size
    assert size < 0.6
    before, after = (pretrained.load(path).state for path in (inputs.model, there.model))
    assert before.keys() == after.keys()
    assert all(np.allclose(before[name], after[name], rtol=2e-3, atol=1e-6) for name in before)
    texts = [
        [(row.premise, row.hypothesis, row.label) for row in PairFile(file).rows()]
        for file in (inputs.train, there.train)
    ]
    assert texts[0] == texts[1]
    assert there.source["train"] == "tiny rows"
    assert there.source["weights"] == "carried in fp16"
    assert there.source["commit"] == machine.commit()["commit"]
    (there.test).unlink()
    with pytest.raises(InputError, match=r"no test\.jsonl\.gz"):
        gpu.carried(tmp_path / "carried")


def test_without_a_gpu_nothing_is_made_up(
    inputs: gpu.Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    gpu.carry(inputs, tmp_path / "carried")
    assert main(["gpu", "--from", str(tmp_path / "carried"), "--results", str(tmp_path / "results")]) == 2
    assert "no GPU that torch can use" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("half", ["training", "scoring"])
def test_what_computes_something_else_is_not_timed_and_the_rest_is(
    inputs: gpu.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    monkeypatch.setenv("BERTNLI_CACHE", "")  # the set sets its own
    checks = [gpu_checks.Check("this", 1e-6, 1e-5, True), gpu_checks.Check("that", 1.0, 1e-5, False, of=half)]
    monkeypatch.setattr(gpu, "_checks", lambda *given: [*checks, gpu_checks.Check("a third", skipped="no GPU")])
    for part in ("training", "scoring", "fine_tuning"):
        monkeypatch.setattr(gpu, f"_{part}", lambda *given, part=part: {"part": part})
    lines: list[str] = []
    parts = gpu.gpu(tmp_path, inputs, gpu.REHEARSAL, lines.append, rehearsal=True)
    result = next(parts)
    assert [line.split("|")[-2].strip() for line in body(result)[-3:]] == [
        "right",
        "WRONG",
        "skipped: no GPU",
    ]
    timed = []
    with pytest.raises(RunError, match=rf"found {half} computes wrong results: that;"):
        timed += [part["part"] for part in parts]
        pytest.fail("no error")
    others = ["scoring"] if half == "training" else ["training", "fine_tuning"]
    assert [line for line in lines if line.endswith(f"skipped: {half} computes wrong results")]
    assert [part for part in others if any(part.replace("_", "-") in line for line in lines)] == others


def test_a_part_that_fails_leaves_the_others_their_time(
    inputs: gpu.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> dict[str, Any]:
        raise ValueError("no CUDA provider")

    monkeypatch.setenv("BERTNLI_CACHE", "")
    monkeypatch.setattr(gpu, "_checks", lambda *given: [gpu_checks.Check("a bundle", skipped="no CUDA", of="scoring")])
    monkeypatch.setattr(gpu, "_training", lambda *given: {"part": "training"})
    monkeypatch.setattr(gpu, "_scoring", fails)
    monkeypatch.setattr(gpu, "_fine_tuning", lambda *given: {"part": "fine_tuning"})
    parts = gpu.gpu(tmp_path, inputs, gpu.REHEARSAL, lambda line: None, rehearsal=True)
    assert [next(parts).get("part") for _ in range(3)] == [None, "training", "fine_tuning"]
    with pytest.raises(RunError, match="found scoring: no CUDA provider;"):
        next(parts)


@pytest.fixture
def checked(inputs: gpu.Inputs, tmp_path: Path) -> work.Work:
    folder = tmp_path / "checked"
    folder.mkdir()
    return work.sample(folder, str(inputs.model), str(inputs.train), 32, 32, seed=0)


def test_the_checks_hold_here(checked: work.Work) -> None:
    found = gpu_checks.attention(checked) + gpu_checks.reduced_precision(checked)
    assert [(one.what, one.right) for one in found if not one.right] == []
    assert found[2].found > 1e-4  # it was bf16


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_attention_that_is_wrong_does_not_pass(
    checked: work.Work, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertnli.model.attention import Packed

    right = Packed.attend
    monkeypatch.setattr(Packed, "attend", lambda *given: right(*given) * (1 + error))
    assert not any(one.right for one in gpu_checks.attention(checked))


def test_losses_that_differ_and_skips_that_are_not_counted_do_not_pass(
    checked: work.Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = {"check-here": [1.1, 1.0, 0.9], "check-cpu": [1.1, 1.0, 0.902], "check-fp16": [1.1, 1.1, 1.0, 0.9]}
    ran: list[tuple[dict[str, Any], str | None]] = []
    monkeypatch.setattr(gpu_checks, "train", lambda run, env: ran.append((run, env.get("CUDA_VISIBLE_DEVICES"))))
    monkeypatch.setattr(gpu_checks, "steps_of", lambda output: [{"loss": loss} for loss in logged[output.name]])
    (found,) = gpu_checks.losses(checked, 3)
    assert found.found == pytest.approx(0.002 / 0.902)
    assert not found.right
    assert ran[1][1] == ""  # the CPU's run sees no GPU
    assert [run["precision"] for run, _ in ran] == ["fp32", "fp32"]
    not_counted, skipped, _ = gpu_checks.fp16(checked, 1, there=True)
    assert (not_counted.right, skipped.right) == (False, True)
    rows = [{"loss": 1.0, "skipped_steps": min(number, 3)} for number in range(9)]
    monkeypatch.setattr(gpu_checks, "steps_of", lambda output: rows)
    assert [one.right for one in gpu_checks.fp16(checked, 3, there=True)] == [True, True, True]


def test_the_fp16_bundle_is_checked_where_there_is_a_gpu(
    inputs: gpu.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = work.scoring(tmp_path, str(inputs.model), str(inputs.test), 32)
    assert [one.skipped for one in gpu_checks.fp16_bundle(checked, there=False)] == ["its graph is for CUDA"]
    no_gpu(monkeypatch)  # torch has one, and ONNX Runtime cannot use it
    (unusable,) = gpu_checks.fp16_bundle(checked, there=True)
    assert "no NVIDIA GPU" in unusable.skipped and unusable.of == "scoring"
    (checked.folder / "bundle-fp16").rename(checked.folder / "unusable")
    stand_in_gpu(monkeypatch)
    monkeypatch.setattr(gpu_checks, "left_to_the_cpu", lambda *_: ["NonZero"])
    # The classifier's weights are multiplied by 20, and so are the differences.
    monkeypatch.setitem(
        parity.LIMITS, "fp16", replace(parity.LIMITS["fp16"], logit_difference=0.2, own_label_flips=0.1)
    )
    found = gpu_checks.fp16_bundle(checked, there=True)
    assert len(found) == 3, found
    logits, labels, nodes = found
    assert (logits.right, labels.right, nodes.right) == (True, True, False)
    assert 0 < logits.found < logits.limit == 0.2


def test_nodes_on_the_cpu_are_found(tmp_path: Path) -> None:
    graph = shutil.copy(tiny.bundle() / "model.onnx", tmp_path / "model.onnx")
    found = gpu_checks.left_to_the_cpu(graph, "CPU")
    assert "Attention" in found
    assert "Shape" not in found
