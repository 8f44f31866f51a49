"""Imports of a command that load thousands of modules, such as torch."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Around imports: Python's garbage collector does not run meanwhile, and never looks at what there is by then.

    Nearly all that an import makes stays to the end. Still the collector would look through it again and again, and
    once more at the end: a fifth of the time to import torch and DeepSpeed and to leave. For our commands, not for a
    program that imports bertnli: what is garbage already stays, too.
    """
    enabled, loaded = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > loaded:
            gc.freeze()
        if enabled:
            gc.enable()
