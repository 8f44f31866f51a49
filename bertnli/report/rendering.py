"""Jinja templates, and writing files: shared by report.html and the model card."""

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

Json = Mapping[str, Any]  # from to_json() of Evaluation or ClassificationMetrics, or a row of metrics.jsonl


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
    """Any text, escaped for a Markdown paragraph or table cell."""
    return html.escape(re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", " ".join(str(text).split())), quote=False)


def write_file(path: Path, text: str) -> None:
    """Write a complete file, or nothing; creates its folder. Raises RunError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror}", do="free space, or give another folder"
        ) from None
