"""bertnli: fine-tune BERT on natural language inference, export it to ONNX, score files of sentence pairs.

The names below are imported when they are first used (PEP 562), so `from bertnli import Scorer` does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bertnli.common.installed import __version__

if TYPE_CHECKING:
    from bertnli_export.scorer import Scorer as Scorer
    from bertnli_export.window_scores import Windows as Windows
    from bertnli_export.zero_shot import ZeroShot as ZeroShot

    from bertnli.model import pretrained as pretrained

# And `pretrained`, for code that was written before the folders.
__all__ = ["Scorer", "Windows", "ZeroShot", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Scorer":
        from bertnli_export.scorer import Scorer

        return Scorer
    if name == "Windows":
        from bertnli_export.window_scores import Windows

        return Windows
    if name == "ZeroShot":
        from bertnli_export.zero_shot import ZeroShot

        return ZeroShot
    if name == "pretrained":
        from bertnli.model import pretrained

        return pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
