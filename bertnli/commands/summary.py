"""How a command ends: its summary as text, and as JSON for programs."""

from __future__ import annotations

import json
from typing import Any


def print_summary(summary: dict[str, Any], as_json: bool, file: Any = None) -> None:
    """Print the summary as text, and with `--json` also as JSON on the last line."""
    for key, value in summary.items():
        if isinstance(value, float):
            print(f"{key}: {value:.4g}", file=file)
        elif not isinstance(value, (dict, list)):
            print(f"{key}: {value}", file=file)
    if as_json:
        print(json.dumps(summary), file=file)
