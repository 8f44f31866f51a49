"""OpenVINO in an environment of its own: fp32, bf16 if the processor has it, and int8 after NNCF's calibration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import environments
from benchmarks.peer import Unavailable
from benchmarks.peers.onnx_graph import Batch, Batches, Tokenised
from bertnli.common.installed import installed

CALIBRATION = 300
"""Rows that int8's scales come from: the default of nncf.quantize."""


@dataclass
class OpenVino(Tokenised):
    """Several batches in flight, as its throughput hint advises, each on a stream of its own (AsyncInferQueue)."""

    calibration: Path | None = None  # rows for int8; none of them is scored

    def __post_init__(self) -> None:
        super().__post_init__()
        assert (self.calibration is not None) == (self.precision == "int8")
        self.name = f"openvino-{self.precision}"
        self.about = f"OpenVINO, {self.precision}"

    def python(self) -> str:
        return environments.python("openvino")

    def settings(self) -> dict[str, Any]:
        calibration = {"nncf.quantize": {"model_type": "transformer", "rows": CALIBRATION}}
        return {
            **_hints(self.precision),
            **(calibration if self.precision == "int8" else {}),
            "versions": installed(["openvino", "nncf", "transformers"]),
        }

    def load(self) -> None:
        import openvino as ov  # type: ignore[import-not-found]

        super().load()
        core = ov.Core()
        if self.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Unavailable("this processor does not compute in bf16")
        path = self.work.folder / self.name / "openvino_model.xml"
        if not path.exists():
            self._export(path)
        self._compiled = core.compile_model(path, "CPU", _hints(self.precision))
        self._inputs = [tensor.any_name for tensor in self._compiled.inputs]

    def logits(self, batch: Batch) -> NDArray[np.floating]:
        return self._compiled({name: batch[name] for name in self._inputs})[0]

    def run_batches(self, batches: Batches, result: NDArray[np.floating]) -> None:
        from openvino import AsyncInferQueue

        def keep(request: Any, places: NDArray[np.int64]) -> None:
            result[places] = request.get_output_tensor(0).data

        queue = AsyncInferQueue(self._compiled)
        queue.set_callback(keep)
        for places, batch in batches:
            queue.start_async({name: batch[name] for name in self._inputs}, userdata=places)
        queue.wait_all()

    def _export(self, path: Path) -> None:
        import nncf  # type: ignore[import-not-found]
        import openvino as ov
        from optimum.intel import OVModelForSequenceClassification  # type: ignore[import-not-found]

        try:
            model = OVModelForSequenceClassification.from_pretrained(self.work.model, export=True, compile=False)
        except ValueError as error:  # ModernBERT
            if "unsupported architecture" not in str(error):
                raise
            raise Unavailable(f"optimum-intel: {str(error).partition(', but')[0]}") from None
        model.save_pretrained(path.parent)
        if self.precision == "int8":
            quantized = nncf.quantize(
                ov.Core().read_model(path),
                nncf.Dataset(self._calibration()),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=CALIBRATION,
            )
            temporary = path.with_name("int8.xml")
            ov.save_model(quantized, temporary, compress_to_fp16=False)
            for suffix in (".xml", ".bin"):
                temporary.with_suffix(suffix).replace(path.with_suffix(suffix))

    def _calibration(self) -> list[dict[str, NDArray[np.int64]]]:
        """Rows as batches of one."""
        assert self.calibration is not None
        with self.calibration.open(encoding="utf-8") as file:
            rows = list(map(json.loads, islice(file, CALIBRATION)))
        texts = ([row[name] for row in rows] for name in ("sentence1", "sentence2"))
        encoded = self._tokenizer(*texts, truncation=True, max_length=self.work.max_length)
        return [{name: np.array([values[place]]) for name, values in encoded.items()} for place in range(len(rows))]


def _hints(precision: str) -> dict[str, str]:
    """In int8 the other operators run in fp32, as in every int8 peer."""
    return {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
