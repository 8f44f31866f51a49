"""Libraries that come with an extra of the package, and not with every installation."""

from __future__ import annotations

import importlib.util

from bertnli.common.errors import InputError


def need(module: str, extra: str) -> None:
    """Raises InputError, which names the extra, if `module` is not installed. Nothing is imported."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"this needs {module}, which is not installed", do=f"pip install 'bertnli[{extra}]'")
