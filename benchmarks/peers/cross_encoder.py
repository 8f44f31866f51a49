"""sentence-transformers' `CrossEncoder.predict`, which sorts by length: on torch, and on its two other backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks import environments
from benchmarks.harness import Unavailable
from benchmarks.peers.scoring import Pairs, Probabilities, Scoring
from benchmarks.work import MAX_LENGTH
from bertnli.versions import installed

_ENVIRONMENTS = {"onnx": "optimum-onnx", "openvino": "openvino"}


@dataclass
class CrossEncoderPredict(Scoring):
    """backend: torch, onnx or openvino. The last two need optimum, and so an environment of their own."""

    backend: str = "torch"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = "cross-encoder" if self.backend == "torch" else f"cross-encoder-{self.backend}"
        backend = "" if self.backend == "torch" else f', backend="{self.backend}"'
        self.about = f"sentence-transformers CrossEncoder.predict{backend}"

    def python(self) -> str:
        return super().python() if self.backend == "torch" else environments.python(_ENVIRONMENTS[self.backend])

    def settings(self) -> dict[str, Any]:
        return {"backend": self.backend, "apply_softmax": True, "versions": installed(["sentence-transformers"])}

    def load(self) -> None:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as error:
            raise Unavailable(str(error)) from None
        more: dict[str, Any] = {"onnx": {"provider": "CPUExecutionProvider"}, "openvino": {"ov_config": _OPENVINO}}
        self._model = CrossEncoder(
            str(self.work.model),
            max_length=MAX_LENGTH,
            backend=self.backend,
            model_kwargs=more.get(self.backend),
        )

    def probabilities(self, pairs: Pairs) -> Probabilities:
        return self._model.predict(list(pairs), batch_size=self.batch_size, apply_softmax=True, show_progress_bar=False)


# Where the processor has bf16 OpenVINO takes it unasked.
_OPENVINO = {"INFERENCE_PRECISION_HINT": "f32"}
