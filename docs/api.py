"""`make docs`: pdoc makes the API reference from the docstrings. A warning of pdoc is an error.

python docs/api.py build/docs
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import typing
import warnings
from pathlib import Path
from types import ModuleType

import pdoc

import bertnli

PACKAGES = ("bertnli", "bertnli_launch", "bertnli_export")


def build(out: Path) -> list[str]:
    """Write HTML pages for all modules of the packages into `out`; returns pdoc's warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for package in map(importlib.import_module, PACKAGES):
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                if not module.name.endswith("__main__"):
                    _prepare(importlib.import_module(module.name))
            if hasattr(package, "__all__"):  # without it, pdoc shows all modules
                package.__all__ += [module.name for module in pkgutil.iter_modules(package.__path__)]
        # pdoc does not look for names that are loaded at their first use.
        for name in ("Scorer", "Windows", "ZeroShot"):
            setattr(bertnli, name, getattr(bertnli, name))
        pdoc.render.configure(docformat="markdown", footer_text="bertnli")
        pdoc.pdoc(*PACKAGES, output_directory=out)
    theirs = Path(pdoc.__file__).parent
    return [f"{one.message}" for one in caught if theirs in Path(one.filename).parents]


def _prepare(module: ModuleType) -> None:
    """Correct what pdoc would get wrong in the module's classes."""
    for one in vars(module).values():
        if not isinstance(one, type) or one.__module__ != module.__name__:
            continue
        # Without a text of its own, a class would show that of the library's class it inherits from, with its links.
        if one.__doc__ is None:
            one.__doc__ = "@public" if one.__subclasses__() else ""  # its subclasses link to it
        if inspect.isabstract(one) and "__init__" in vars(one):  # it has no anchor, and subclasses would link to it
            one.__init__.__doc__ = "@private"
        if issubclass(one, tuple) and hasattr(one, "_fields"):  # a NamedTuple's constructor has its type hints as text
            one.__new__.__annotations__ = typing.get_type_hints(one)


if __name__ == "__main__":
    if found := build(Path(sys.argv[1])):
        sys.exit("\n".join(found))
    print(Path(sys.argv[1]) / "index.html")
