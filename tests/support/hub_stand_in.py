"""A model hub of this machine, in this process: huggingface_hub asks it, and both caches are empty folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from bertnli.fetch import hub_repository
from tests.support.http_stand_in import StandIn


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The hub, with nobody logged in. Our cache is `folder`/cache, huggingface_hub's is `folder`/hf. Nothing sleeps."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("BERTNLI_CACHE", str(folder / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_repository.time, "sleep", lambda seconds: None)  # also download.py's
    with StandIn() as stand_in:
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.url(""))
        template = stand_in.url("") + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield stand_in
