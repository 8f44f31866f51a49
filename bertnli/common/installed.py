"""Our version, and the versions of installed packages, which are not imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from bertnli.common.errors import InputError

__version__ = "0.1.0"
_PACKAGES = ("bertnli", "bertnli_export", "bertnli_launch")


def installed(packages: Iterable[str]) -> dict[str, str]:
    """package -> version, for those of `packages` that are installed, in their order."""
    from importlib import metadata  # it loads the email package

    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def packages() -> list[Path]:
    """The folders of our three packages, which have different parents in a checkout. Nothing is imported."""
    specs = [importlib.util.find_spec(name) for name in _PACKAGES]
    return [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None]


def need(module: str, extra: str) -> None:
    """Raise InputError that names the extra if `module` is not installed. Nothing is imported."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"this needs {module}, which is not installed", do=f"pip install 'bertnli[{extra}]'")
