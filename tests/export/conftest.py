"""What the tests of exporting and scoring share."""

from __future__ import annotations

import pytest

from tests.support import tiny


@pytest.fixture(scope="session", autouse=True)
def exported_before_anything_is_replaced() -> None:
    """The shared bundle is exported before the first test: not while a test replaces parts of ONNX Runtime."""
    tiny.bundle()
