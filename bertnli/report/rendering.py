"""What report.html and the model card share: their Jinja templates, and how they are written."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertnli.common.errors import RunError
from bertnli.common.files import write_text

if TYPE_CHECKING:
    import jinja2

Json = Mapping[str, Any]  # an Evaluation's or a ClassificationMetrics's to_json(), a row of metrics.jsonl


def templates(*, autoescape: bool) -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bertnli.report"),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = _markdown
    return environment


def _markdown(text: object) -> str:
    """Any text as plain words of a Markdown paragraph or table cell."""
    return html.escape(re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", " ".join(str(text).split())), quote=False)


def write_file(path: Path, text: str) -> None:
    """Write it whole or not at all, with its folder. Raises RunError if the disk does not take it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}", do="make room, or give another folder") from None
