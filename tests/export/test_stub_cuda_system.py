"""ONNX Runtime's real CUDA provider over stub CUDA libraries: one and two GPUs of three generations, without a GPU.

Kernels compute nothing there, so all logits are zero: rows, order, placement, devices, errors and ends are looked at.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx
import psutil
import pytest
from bertnli_export.build import export_bundle
from bertnli_export.graphs import fp16

from bertnli.model import pretrained
from tests.conftest import environment
from tests.model.test_families import ROWS as ROW_OF_FAMILY
from tests.model.test_families import ours_of, theirs_of
from tests.support import tiny
from tests.support.ray_nodes import cluster
from tests.support.stub_cuda import build as stub

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ROWS = 3000


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    if reason := stub.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("stub-cuda")
    stub.build(folder)
    return folder


@pytest.fixture
def command(built: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`command("score", …, devices=2)`: the command on so many stub GPUs, to its end."""

    def run(*arguments: object, code: int = 0, **gpus: int) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "bertnli.cli", *map(str, arguments)],
            cwd=tmp_path,
            env=environment(**stub.environment(built, **gpus)),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "in.jsonl"
    given = tiny.snli_rows(ROWS)
    given[7] = {"sentence1": "no hypothesis"}
    path.write_text("".join(json.dumps({"id": number, **row}) + "\n" for number, row in enumerate(given)))
    return path


def scores(path: Path) -> list[dict]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in found] == list(range(ROWS))  # each row once, in order
    assert [row["id"] for row in found if row["error"]] == [7]
    return found


@pytest.mark.parametrize(("devices", "sm"), [(1, 75), (2, 80), (2, 90)])
def test_score_takes_every_gpu_to_the_end(command, rows, tmp_path, devices, sm):
    done = command("score", tiny.bundle(), rows, "out.jsonl", "--json", devices=devices, sm=sm)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["device"], summary["rows"], summary["errors"]) == ("cuda", ROWS, 1)
    assert " on " + " + ".join(f"CUDA GPU {number}" for number in range(devices)) in done.stderr
    assert "onnxruntime" not in done.stderr  # nor does ONNX Runtime say anything of its own
    assert scores(tmp_path / "out.jsonl")[0]["p_neutral"] == pytest.approx(1 / 3)
    assert "already_finished: True" in command("score", tiny.bundle(), rows, "out.jsonl", devices=devices, sm=sm).stdout


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--devices", "1"], "CUDA GPU 1"),
        (["--devices", "1,0"], "CUDA GPU 1 + CUDA GPU 0"),
        (["--device", "cuda:1"], "CUDA GPU 1"),
        (["--device", "cpu"], "CPU"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_gpus_that_are_named_are_taken(command, rows, options, found):
    done = command("score", tiny.bundle(), rows, "-", "--format", "jsonl", *options, devices=2)
    assert f"pairs/s on {found}" in done.stderr and len(done.stdout.splitlines()) == ROWS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--devices", "2"], "GPU 2; found 2 here; expected 0 to 1"),
        (["--devices", "0,0"], "--devices; found 0,0"),
        (["--device", "cuda:2"], "found 2 here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_gpus_that_are_not_there_are_told_beforehand(command, rows, tmp_path, options, said):
    assert said in command("score", tiny.bundle(), rows, "out.jsonl", *options, code=2, devices=2).stderr
    assert not (tmp_path / "out.jsonl").exists()


# A run that says when a chunk is written, and goes on when it is told to.
HELD = """
import json, sys
from bertnli_export import score

score.CHUNK["cuda"] = 250
hold = sys.argv[4] == "hold"

def progress(rows, note):
    if hold:
        print(rows, flush=True)
        sys.stdin.readline()

summary = score.score_file(*sys.argv[1:4], checkpoint_seconds=0, progress=progress)
print(json.dumps(summary))
"""


def held(built: Path, rows: Path, output: Path, hold: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HELD, str(tiny.bundle()), str(rows), str(output), "hold" if hold else "run"],
        env=environment(**stub.environment(built, devices=2)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def undisturbed(built, rows, tmp_path_factory) -> bytes:
    output = tmp_path_factory.mktemp("undisturbed") / "out.jsonl"
    with held(built, rows, output, hold=False) as process:
        assert process.wait(120) == 0
    scores(output)
    return output.read_bytes()


def test_a_killed_run_goes_on_on_two_gpus(built, rows, tmp_path, undisturbed):
    output = tmp_path / "out.jsonl"
    with held(built, rows, output, hold=True) as process:
        for _ in range(3):
            process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    with held(built, rows, output, hold=False) as process:
        summary = json.loads(process.stdout.read().splitlines()[-1])
    assert 0 < summary["resumed_at"] < ROWS and output.read_bytes() == undisturbed


def test_a_gpus_worker_that_dies_is_told_and_its_rows_are_scored_by_the_other(built, rows, tmp_path, undisturbed):
    output = tmp_path / "out.jsonl"
    with held(built, rows, output, hold=True) as process:
        process.stdout.readline()
        workers = [
            child for child in psutil.Process(process.pid).children() if "bertnli_export.worker" in child.cmdline()
        ]
        assert len(workers) == 2
        workers[0].kill()
        out, _ = process.communicate("\n" * ROWS, timeout=120)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["worker_deaths"] == 1 and output.read_bytes() == undisturbed


def test_other_commands_run_on_a_gpu(command, rows, tmp_path):
    """A bundle is measured there; verified, it is told that its logits, all zero, are not the checkpoint's."""
    looked = command("doctor", "--json")
    assert (
        json.loads(looked.stdout.splitlines()[-1])["gpus"] == 1 and "scoring: ONNX Runtime on cuda\n" in looked.stdout
    )
    labelled = [json.loads(line) for line in rows.read_text().splitlines() if "sentence2" in line]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    measured = command("eval", tiny.bundle(), "labelled.jsonl", "--json")
    assert json.loads(measured.stdout.splitlines()[-1])["rows"] > 2000
    said = command("verify", tiny.bundle(), code=1).stderr
    assert "on CUDA GPU 0 does not compute what its checkpoint computes" in said


PLACEMENT = """
import json, sys, tempfile
from pathlib import Path
import numpy as np
import onnxruntime as ort
from bertnli_export.interface import INPUTS, OUTPUT

for model in sys.argv[1:]:
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(tempfile.mkdtemp()) / "profile")
    providers = [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    session = ort.InferenceSession(model, options, providers=providers)
    mask = np.array([[1] * 8, [1] * 7 + [0]])
    batch = dict(zip(INPUTS, (np.full_like(mask, 7), mask, np.zeros_like(mask)), strict=True))
    (logits,) = session.run([OUTPUT], batch)
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    print(json.dumps([logits.shape, [[node["provider"], node["op_name"]] for node in nodes]]))
"""
COUNTS = "15,1"
"""What the fp16 graph's two NonZero find in that batch, real tokens and padding: they are read back from the GPU."""


def placed(built: Path, models: Sequence[Path], **stubs: object) -> Iterator[tuple[list[int], list[str], list[str]]]:
    """For each graph the logits' shape, and the operators that ran on the GPU and on the CPU."""
    command = [sys.executable, "-c", PLACEMENT, *map(str, models)]
    env = environment(**stub.environment(built, **stubs))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines()[-len(models) :]:
        shape, nodes = json.loads(line)
        where = {"CUDAExecutionProvider": [], "CPUExecutionProvider": []}
        for provider, operator in nodes:
            where[provider].append(operator)
        yield shape, *where.values()


@pytest.mark.parametrize("sm", [75, 80, 90])
@pytest.mark.parametrize(
    ("precision", "kernels", "on_the_cpu"),
    [
        ("fp32", {"Attention"}, {"Concat", "Squeeze"}),
        ("fp16", {"PackedMultiHeadAttention", "SkipLayerNormalization", "BiasGelu"}, {"Squeeze"}),
    ],
)
def test_nodes_are_placed_on_the_gpu(built, tmp_path, precision, kernels, on_the_cpu, sm):
    """All but those that compute shapes, a handful."""
    export_bundle(pretrained.load(tiny.hf_folder(tmp_path / "model")), tmp_path / "bundle", precision=precision)
    answers = COUNTS if precision == "fp16" else ""
    [(shape, gpu, cpu)] = placed(built, [tmp_path / "bundle" / "model.onnx"], sm=sm, STUB_CUDA_ANSWERS=answers)
    assert shape == [2, 3] and kernels <= set(gpu) and len(gpu) > 25
    assert set(cpu) <= on_the_cpu and len(cpu) <= 5, cpu


@pytest.mark.parametrize("sm", [75, 90])
def test_the_fp16_graph_of_every_family_is_placed_on_the_gpu(built, tmp_path, sm):
    """All nodes but those that compute shapes: one, and for DeBERTa some that say where rows are cut."""
    models, layers = {}, []
    for row in ROW_OF_FAMILY:
        for which in (0, -1):
            sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_labels": 3}
            model = ours_of(theirs_of(row.config(**row.configurations[which] | sizes)))
            name = f"{row.model_type} {which}"
            models[name] = tmp_path / f"{name}.onnx"
            layers.append(model.config.num_layers)
            onnx.save(fp16.fp16_graph(model), models[name])
    answers = ",".join([COUNTS] * len(models))
    found = placed(built, list(models.values()), sm=sm, STUB_CUDA_ANSWERS=answers)
    for name, count, (shape, gpu, cpu) in zip(models, layers, found, strict=True):
        shapes = {"Squeeze", "Concat", "Add", "Sub", "Mul"} if name.startswith("deberta") else {"Squeeze"}
        assert shape == [2, 3] and set(cpu) <= shapes and len(cpu) <= 12, name
        assert gpu.count("PackedMultiHeadAttention") == count, name


def test_ray_gives_each_worker_a_gpu(command, built, rows, tmp_path):
    (tmp_path / "parts").mkdir()
    for number in range(3):
        (tmp_path / "parts" / f"{number}.jsonl").write_bytes(rows.read_bytes())
    with cluster("alone", "--num-gpus", "2", **stub.environment(built, devices=2)) as address:
        done = command("score", tiny.bundle(), "parts", "scores", "--ray", address, "--json", devices=2)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["device"], summary["rows"], summary["errors"]) == ("cuda", 3 * ROWS, 3)
    for number in range(3):
        scores(tmp_path / "scores" / f"{number}.jsonl")
