"""bertnli: fine-tune BERT on natural language inference, export it to ONNX, score files of sentence pairs.

The names below load what they need when first used (PEP 562), so that `from bertnli import Scorer` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertnli_export.scorer import Scorer as Scorer

__version__ = "0.1.0"
__all__ = ["Scorer", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Scorer":
        from bertnli_export.scorer import Scorer

        return Scorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
