"""bertnli: fine-tune BERT on natural language inference, export it to ONNX, score files of sentence pairs.

The names below are imported when they are first used (PEP 562), so `from bertnli import Scorer` does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bertnli.common.installed import __version__

if TYPE_CHECKING:
    from bertnli_export.scorer import Scorer as Scorer

    from bertnli.model import pretrained as pretrained

__all__ = ["Scorer", "__version__"]  # and `pretrained`, for code that was written before the folders


def __getattr__(name: str) -> Any:
    if name == "Scorer":
        from bertnli_export.scorer import Scorer

        return Scorer
    if name == "pretrained":
        from bertnli.model import pretrained

        return pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
