"""The environment of a Python that we start: it imports installed modules, and none of the working folder.

By default `python -m` and `python -c` look for every module in the working folder first. A numpy.py that lies there, or
a copy.py, would be run in place of the real one, on every rank.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from bertnli.common.installed import packages


def safe_path(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with the variables by which Python leaves the working folder out, and still finds our packages.

    An empty entry of PYTHONPATH means the working folder, comes from `PYTHONPATH=$PYTHONPATH:/mine`, and is left out.
    A folder that PYTHONPATH names stays, also `.`, with its whole path: the process may start in another folder.
    """
    named = [str(Path(entry).absolute()) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    site = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    sources = [str(package.parent) for package in packages() if package.parent not in site]  # run from a checkout
    paths = list(dict.fromkeys([*sources, *named]))
    more = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return {**{name: environment[name] for name in environment if name != "PYTHONPATH"}, **more, "PYTHONSAFEPATH": "1"}
