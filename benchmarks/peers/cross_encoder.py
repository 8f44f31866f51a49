"""sentence-transformers' `CrossEncoder.predict`, which sorts by length, with its backends torch, onnx and openvino."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks import environments
from benchmarks.peer import Unavailable
from benchmarks.peers.scoring import Pairs, Probabilities, Scoring
from bertnli.common.installed import installed

_ENVIRONMENTS = {"onnx": "optimum-onnx", "openvino": "openvino"}


@dataclass
class CrossEncoderPredict(Scoring):
    """backend: torch, onnx or openvino; the last two need optimum, and so an environment of their own. precision: fp32,
    or fp16 with torch. attention: transformers' `attn_implementation`, with torch."""

    backend: str = "torch"
    attention: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        precision = "" if self.precision == "fp32" else self.precision
        parts = ["" if self.backend == "torch" else self.backend, precision, self.attention or ""]
        self.name = "-".join(["cross-encoder", *filter(None, parts)]).replace("_", "-")
        backend = "" if self.backend == "torch" else f', backend="{self.backend}"'
        self.about = ", ".join(filter(None, [f"sentence-transformers CrossEncoder.predict{backend}", *parts[1:]]))

    def python(self) -> str:
        return super().python() if self.backend == "torch" else environments.python(_ENVIRONMENTS[self.backend])

    def settings(self) -> dict[str, Any]:
        of_torch = {} if self.backend != "torch" else self._of_torch()
        return {
            "backend": self.backend,
            **of_torch,
            "apply_softmax": True,
            "versions": installed(["sentence-transformers"]),
        }

    def _of_torch(self) -> dict[str, Any]:
        attention = {} if self.attention is None else {"attn_implementation": self.attention}
        return attention if self.precision == "fp32" else {"dtype": "float16", **attention}

    def load(self) -> None:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as error:
            raise Unavailable(str(error)) from None
        more: dict[str, Any] = {
            "torch": self._of_torch(),
            "onnx": {"provider": "CPUExecutionProvider"},
            "openvino": {"ov_config": _OPENVINO},
        }
        try:
            self._model = CrossEncoder(
                str(self.work.model),
                max_length=self.work.max_length,
                backend=self.backend,
                model_kwargs=more[self.backend],
            )
        except (ImportError, ValueError) as error:
            if self.attention is None:
                raise
            raise Unavailable(f"attn_implementation={self.attention}: {error}".splitlines()[0]) from None

    def probabilities(self, pairs: Pairs) -> Probabilities:
        return self._model.predict(list(pairs), batch_size=self.batch_size, apply_softmax=True, show_progress_bar=False)


# By default OpenVINO uses bf16 if the processor has it.
_OPENVINO = {"INFERENCE_PRECISION_HINT": "f32"}
