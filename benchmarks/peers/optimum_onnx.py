"""optimum-onnx in an environment of its own: its export, its graph optimisation, its quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import environments
from benchmarks.peers.onnx_graph import Batch, Tokenised, session_options
from bertnli.common.installed import installed

OPTIMIZATION = "O2"
QUANTIZATION = {"is_static": False, "per_channel": True}


@dataclass
class OptimumOnnx(Tokenised):
    """ORTModelForSequenceClassification with the graph from ORTOptimizer, or in int8 from ORTQuantizer (AVX-512 VNNI).

    optimum refuses to quantise a graph that it has optimised.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = f"optimum-onnx-{self.precision}"
        self.about = f"optimum-onnx, {self.precision}"

    def python(self) -> str:
        return environments.python("optimum-onnx")

    def settings(self) -> dict[str, Any]:
        how = {"optimization": OPTIMIZATION} if self.precision == "fp32" else {"avx512_vnni": QUANTIZATION}
        versions = installed(["optimum-onnx", "optimum", "transformers"])
        return {**how, "versions": versions}

    def load(self) -> None:
        from optimum.onnxruntime import (  # type: ignore[import-not-found]
            ORTModelForSequenceClassification,
        )

        super().load()
        path = self.work.folder / self.name
        if not path.exists():
            self._export(path)
        (file,) = path.glob("*.onnx")
        self._model = ORTModelForSequenceClassification.from_pretrained(
            path, file_name=file.name, provider="CPUExecutionProvider", session_options=session_options(self.precision)
        )

    def logits(self, batch: Batch) -> NDArray[np.floating]:
        return self._model(**batch).logits

    def _export(self, path: Path) -> None:
        from optimum.onnxruntime import ORTModelForSequenceClassification, ORTOptimizer, ORTQuantizer
        from optimum.onnxruntime.configuration import (  # type: ignore[import-not-found]
            AutoOptimizationConfig,
            AutoQuantizationConfig,
        )

        plain = path.with_name(f"{path.name}-plain")
        model = ORTModelForSequenceClassification.from_pretrained(
            self.work.model, export=True, provider="CPUExecutionProvider"
        )
        model.save_pretrained(plain)
        if self.precision == "fp32":
            configuration = getattr(AutoOptimizationConfig, OPTIMIZATION)()
            ORTOptimizer.from_pretrained(plain).optimize(save_dir=path, optimization_config=configuration)
        else:
            configuration = AutoQuantizationConfig.avx512_vnni(**QUANTIZATION)
            ORTQuantizer.from_pretrained(plain).quantize(configuration, save_dir=path)
