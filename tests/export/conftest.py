"""What several tests of the export share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bertnli_export.scorer import CHUNK as CHUNKS

from tests.support import tiny
from tests.support.scored_files import CHUNK

if TYPE_CHECKING:
    from bertnli.model.pretrained import Pretrained


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of few rows, so that small files have several."""
    monkeypatch.setitem(CHUNKS, "cpu", CHUNK)


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """The model that `tiny.bundle()` was exported from."""
    from bertnli.model import pretrained

    return pretrained.load(tiny.hf_folder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def d2l_source(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """A fine-tuned model of the d2l book."""
    from bertnli.model import pretrained

    folder = tiny.d2l_folder(tmp_path_factory.mktemp("d2l"), classifier=True)
    return pretrained.load(folder, arch="bert.small", max_length=32)


@pytest.fixture(scope="session")
def d2l_bundle(d2l_source: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle, to be read only."""
    from bertnli_export.build import export_bundle

    folder = tmp_path_factory.mktemp("d2l-bundle") / "bundle"
    assert export_bundle(d2l_source, folder)["fused_attention"] == 2
    return folder
