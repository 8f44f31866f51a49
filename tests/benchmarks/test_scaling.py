"""Scaling: the model of the exchange against figures worked out by hand, and what becomes of the measured rates."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import exchange, machine, scaling
from benchmarks.exchange import Given, Link, all_reduce, gpu_rate, projection, ring, step
from benchmarks.scaling import WAYS, Places
from benchmarks.table import table
from bertnli.common.errors import RunError

# --- the model -------------------------------------------------------------------------------------------------------


def test_a_ring_sends_its_bytes_in_2_n_less_1_messages() -> None:
    assert ring(100e6, 2, Link(125e6)) == pytest.approx(0.8)  # 2 messages of 50 MB at 125 MB/s
    assert ring(100e6, 2, Link(125e6, 0.1)) == pytest.approx(1.0)
    assert ring(400e6, 4, Link(100e6, 0.5)) == pytest.approx(9.0)  # 6 of 100 MB: a second each, and half of one
    assert ring(100e6, 1, Link(125e6, 0.1)) == 0


def test_hosts_sum_inside_and_then_between() -> None:
    inside, between = Link(200e9, 1e-6), Link(12.5e9, 1e-5)

    def seconds(gpus: int) -> float:
        return all_reduce(1e9, gpus, 8, inside, between)

    assert seconds(8) == pytest.approx(0.008764)  # 14 messages of 125 MB: 625 us each, and 1
    assert seconds(64) == pytest.approx(0.008764 + 0.14014)  # and 14 over the link: 10 ms each, and 10 us
    assert seconds(512) == pytest.approx(0.008764 + 126 * (1 / 64 / 12.5 + 1e-5))
    assert seconds(4) == pytest.approx(0.007506)  # half a host: 6 messages of 250 MB


def test_only_the_backward_pass_hides_the_exchange() -> None:
    assert step(0.3, 0.1, overlap=False) == pytest.approx(0.4)
    assert step(0.3, 0.1, overlap=True) == pytest.approx(0.3)  # all of it fits into 0.2
    assert step(0.3, 0.5, overlap=True) == pytest.approx(0.6)  # the forward pass, and then the exchange


def test_the_projection_is_the_model_on_bert_base() -> None:
    found = projection(28.0, Given("one GPU in training", 1e14, "FLOP/s", "assumed", "a round number"))
    rows = {(row["pairs_a_gpu"], row["gpus"], row["gbit"]): row for row in found["rows"]}
    assert set(rows) == {
        (pairs, gpus, gbit)
        for pairs in (32, 256)
        for gpus, gbit in [(8, None), *((n, g) for n in (64, 512) for g in (100, 400))]
    }
    # 109,484,547 parameters in fp32: 54.74 MB a message, 273.7 + 3.4 us inside; 4,866 + 14 us at 90% of 100 Gb/s
    row = rows[32, 64, 100]
    assert row["compute_seconds"] == pytest.approx(0.0042603, rel=1e-4)  # 32 x 13.314 GFLOP
    assert row["exchange_seconds"] == pytest.approx(0.0038796 + 0.0683197, rel=1e-4)
    assert row["without_overlap"]["pairs_per_second"] == pytest.approx(2048 / 0.0764596, rel=1e-4)
    assert row["without_overlap"]["efficiency"] == pytest.approx(0.0042603 / 0.0764596, rel=1e-4)
    assert row["with_overlap"]["pairs_per_second"] == pytest.approx(2048 / (0.0042603 / 3 + 0.0721993), rel=1e-4)
    assert rows[256, 8, None]["exchange_seconds"] == pytest.approx(0.0038796, rel=1e-4)
    assert rows[256, 8, None]["with_overlap"]["efficiency"] == pytest.approx(1)
    assert {one["how"] for one in found["given"]} == {"assumed", "counted", "published"}


def test_a_gpus_rate_is_measured_where_there_is_one(tmp_path: Path) -> None:
    published = gpu_rate(tmp_path)
    # BERT-large: 24 blocks of 12 x 1,024^2 weights, 6 operations each, 128 tokens, 580 sequences a second
    assert published.value == pytest.approx(580 * 128 * 6 * 24 * 12 * 1024**2)
    assert published.how == "assumed"
    peers = [{"name": "plain-loop"}, {"name": "bertnli", "per_second": {"median": 5000.0}}]
    result = {"peers": peers, "work": {"needed_flop_per_pair": 2e10}, "machine": {"gpus": ["a GPU"]}}
    (tmp_path / "gpu-training-256.json").write_text(json.dumps(result))
    measured = gpu_rate(tmp_path)
    assert (measured.value, measured.how) == (1e14, "measured")
    assert "a GPU" in measured.source


# --- what was measured -----------------------------------------------------------------------------------------------


RATES = {"alone": [10.0, 5.0, 10.0], "apart": [20.0, 8.0, 18.0], "together": [15.0, 4.0, 14.4]}


def test_ratios_are_taken_inside_a_round() -> None:
    """The machine slowed down by half in the second round."""
    ways = {way.name: way for way in WAYS}
    found = scaling._record(ways["together"], RATES, {"together": 1e8}, size=100_000_000, batch=32)
    assert found["over_alone"] == pytest.approx({"median": 1.44, "min": 0.8, "max": 1.5})
    assert found["communication_share"] == pytest.approx({"median": 0.25, "min": 0.2, "max": 0.5})
    # apart, 64 pairs take 64 / 18 s; then two messages of 50 MB at 100 MB/s
    assert found["modelled_pairs_per_second"] == pytest.approx(64 / (64 / 18 + 1))
    assert "communication_share" not in scaling._record(ways["apart"], RATES, {}, size=1, batch=32)


def test_the_first_epoch_is_not_timed() -> None:
    steps = [{"pairs_per_second": 1.0}] * 8 + [{"pairs_per_second": 32.0}] * 8 + [{"pairs_per_second": 64.0}] * 8
    assert scaling._timed(steps, 64) == pytest.approx(16 * 64 / (8 * 2 + 8 * 1))
    with pytest.raises(AssertionError):
        scaling._timed(steps[1:], 64)


def test_the_table_says_what_is_modelled_and_with_what() -> None:
    links = {"together": 1e8}
    given = {"rows_from": "snli-100k", "rows": 256, "tokens_per_pair": 28.0, "batch_size": 32}
    gpu = Given("one GPU in training", 1e14, "FLOP/s", "assumed", "a round number")
    result: dict[str, Any] = {
        "name": "scaling",
        "kind": "scaling",
        **machine.describe(),
        "work": given,
        "rounds": 3,
        "where": "two hosts: namespaces",
        "each_rank": {"pairs_a_step": 32},
        "gradient_bytes": 100_000_000,
        "communication": "so",
        "ways": [scaling._record(way, RATES, links, 100_000_000, 32) for way in WAYS[:3]],
        "projection": projection(28.0, gpu),
    }
    lines = table(json.loads(json.dumps(result))).splitlines()
    assert "Two hosts: namespaces; 32 pairs and one core a rank." in lines
    assert (
        "| two ranks on two hosts | 14.4 (4.00 to 15.0) | 1.44 (0.800 to 1.50) x | 25% (20% to 50%) | 100 | 14.0 |"
        in lines
    )
    assert "BERT-base by the model alone. NCCL across hosts: not measured; there were no two hosts with GPUs." in lines
    assert "| 64 | 100 Gb/s | 32 | 4.3 | 72.2 | 26,785 | 6% | 27,819 | 6% |" in lines
    assert "| one GPU in training | 1e+14 FLOP/s | assumed | a round number |" in lines
    assert all(f"* {sentence}" in lines for sentence in exchange.ASSUMED)


# --- the ranks -------------------------------------------------------------------------------------------------------


two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two cores, one for each rank")


@two_cores
def test_a_rank_that_fails_ends_the_others(tmp_path: Path) -> None:
    here = Places("", ())
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    with logs[0].open("wb") as log:
        programs = [here.start(0, "-c", "raise SystemExit('what went wrong')", stderr=log)]
    logs[1].touch()
    programs.append(here.start(1, "-c", "import time; time.sleep(600)"))
    with pytest.raises(RunError, match=r"exit code 1.*what went wrong"):
        scaling._wait(programs, logs)
    assert not psutil.pid_exists(programs[1].pid)


@two_cores
def test_without_hosts_the_ranks_are_local_and_each_has_a_core(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.support.hosts.why_not", lambda: "no root")
    with scaling.places(tmp_path) as there:
        assert there.about == "two ranks on one machine, over its loopback interface (no root)"
        found = scaling._joining(there, rank=1, ranks=2, port=29500)
        assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == (*"1212",)
        assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("127.0.0.1", "29500")
        code = "import os; print(os.sched_getaffinity(0))"
        cores = {there.start(n, "-c", code, stdout=subprocess.PIPE, text=True).communicate()[0] for n in (0, 1)}
    assert len(cores) == 2
