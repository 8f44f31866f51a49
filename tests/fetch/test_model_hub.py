"""Models from a model hub of this machine, by huggingface_hub itself, steered by its own variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from bertnli.fetch.entry import SourceError
from bertnli.fetch.model_hub import copy_model
from tests.support import tiny
from tests.support.http_stand_in import StandIn

MODEL = tiny.hub_files()
WEIGHTS = MODEL["model.safetensors"]
MODEL |= {"pytorch_model.bin": WEIGHTS, "tf_model.h5": WEIGHTS, "onnx/model.onnx": WEIGHTS, "train_script.py": b"boom"}
KEPT = ["README.md", "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]

# huggingface_hub reads its variables when it is imported: each case is a process of its own.
CALL = """
import json, sys, pathlib
from bertnli.fetch.entry import HubModel
from bertnli.fetch.model_hub import download_model
folder = pathlib.Path(sys.argv[2])
folder.mkdir()
try:
    commit = download_model(HubModel(sys.argv[1]), folder)
    print(json.dumps({"commit": commit, "files": sorted(path.name for path in folder.iterdir())}))
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error)}))
"""


@pytest.fixture
def hub() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


def call(hub: StandIn, tmp_path: Path, repo: str, folder: str, **variables: str) -> dict[str, object]:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": hub.url(""), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"BERTNLI_CACHE": str(tmp_path / "cache")}
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | variables
    done = subprocess.run(
        [sys.executable, "-c", CALL, repo, str(tmp_path / folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_only_what_a_loader_needs_and_again_without_the_hub(hub: StandIn, tmp_path: Path) -> None:
    hub.add_model("org/bert", MODEL)
    answer = call(hub, tmp_path, "org/bert", "first")
    assert answer["files"] == KEPT
    assert len(str(answer["commit"])) == 40
    order = ["config.json", "tokenizer_config.json", "vocab.txt", "README.md", "model.safetensors"]
    assert hub.resolved("org/bert") == order
    for name in KEPT:
        assert (tmp_path / "first" / name).read_bytes() == MODEL[name]
    assert not [request for request in hub.requests if request.path.endswith((".bin", ".h5", ".onnx", ".py"))]
    # What huggingface_hub has under HF_HOME serves when the hub may not be asked.
    cache = tmp_path / "hf" / "hub"
    huggingface_hub.snapshot_download("org/bert", endpoint=hub.url(""), cache_dir=cache, allow_patterns=KEPT)
    asked = len(hub.requests)
    assert call(hub, tmp_path, "org/bert", "second", HF_HUB_OFFLINE="1") == answer
    assert len(hub.requests) == asked


def test_the_pickled_form_where_there_is_no_other(hub: StandIn, tmp_path: Path) -> None:
    hub.add_model("org/old", {name: body for name, body in MODEL.items() if name != "model.safetensors"})
    answer = call(hub, tmp_path, "org/old", "out")
    assert answer["files"] == sorted([*KEPT[:2], "pytorch_model.bin", *KEPT[3:]])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])  # listed by sha256 and by git's sha1
def test_bytes_unlike_the_hubs_own_list_are_refused(hub: StandIn, tmp_path: Path, name: str) -> None:
    hub.add_model("org/bert", MODEL)
    for path, hosted in hub.files.items():
        if path.endswith(name) and "/resolve/" in path:
            hosted.body = hosted.body[::-1]
    answer = call(hub, tmp_path, "org/bert", "out")
    assert answer["error"] == "SourceError"
    assert f"wrong checksum of {name}" in str(answer["text"])


def test_no_such_model_nobody_there_and_offline(hub: StandIn, tmp_path: Path) -> None:
    assert call(hub, tmp_path, "org/nothing", "a")["error"] == "HubAnswerError"
    for folder, variables in (("b", {"HF_ENDPOINT": "http://127.0.0.1:9"}), ("c", {"HF_HUB_OFFLINE": "1"})):
        answer = call(hub, tmp_path, "org/bert", folder, **variables)
        assert answer["error"] == "SourceError"
        assert "cannot be reached" in str(answer["text"])


def test_a_folder_without_weights_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"not a model: found config.json"):
        copy_model(tmp_path / "in", tmp_path / "out")
