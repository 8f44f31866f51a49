"""Peers that export a graph and leave the rest to the caller: transformers.exporters, torch with ONNX Runtime's tools.

The caller's part follows the best advice in their documentation: transformers' tokenizer on all rows at once, batches
by length, one ONNX Runtime session with a thread for each core.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bertnli_export.session import EXACT_INT8
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.peer import Unavailable
from benchmarks.peers import hf
from benchmarks.peers.scoring import Pairs, Probabilities, Scoring, by_length, softmax
from bertnli.common.cores import usable_cores
from bertnli.common.installed import installed

Batch = Mapping[str, NDArray[np.int64]]
"""`input_ids`, `attention_mask` and `token_type_ids`, each `[batch, length]`."""
Batches = Iterable[tuple[NDArray[np.int64], Batch]]
"""Each with the indices of its pairs."""
_PAD = {"return_tensors": "np"}


@dataclass
class Tokenised(Scoring):
    """A peer that takes padded batches of token ids."""

    @abstractmethod
    def logits(self, batch: Batch) -> NDArray[np.floating]:
        """`[batch, labels]`."""

    def probabilities(self, pairs: Pairs) -> Probabilities:
        tokenizer = self._tokenizer
        encoded = tokenizer(*map(list, zip(*pairs, strict=True)), truncation=True, max_length=self.work.max_length)
        batches = (
            (places, tokenizer.pad({name: [values[at] for at in places] for name, values in encoded.items()}, **_PAD))
            for places in by_length([len(ids) for ids in encoded["input_ids"]], self.batch_size)
        )
        result = np.empty((len(pairs), len(self.labels)))
        self.run_batches(batches, result)
        return softmax(result)

    def run_batches(self, batches: Batches, result: NDArray[np.floating]) -> None:
        """Write the logits of each batch to its rows of `result`."""
        for places, batch in batches:
            result[places] = self.logits(batch)

    def load(self) -> None:
        try:
            self._tokenizer = hf.tokenizer(self.work)
        except ImportError as error:
            raise Unavailable(str(error)) from None


def session_options(precision: str) -> Any:
    """ONNX Runtime's, with a thread for each core. On a CPU without VNNI int8 products are wrong without an option."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    if precision == "int8" and not machine.has_vnni():
        options.add_session_config_entry(*EXACT_INT8)
    return options


@dataclass
class OnnxGraph(Tokenised):
    """provider: ONNX Runtime's, cpu or cuda."""

    provider: str = "cpu"

    @abstractmethod
    def export(self, path: Path) -> None:
        """Write the graph. Raises Unavailable."""

    def load(self) -> None:
        import onnxruntime as ort

        super().load()
        path = self.work.folder / self.name / "model.onnx"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            self.export(path)
        options = session_options(self.precision)
        if self.provider == "cuda":
            ort.preload_dlls()
        provider = f"{self.provider.upper()}ExecutionProvider"
        self._session = ort.InferenceSession(str(path), options, providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise Unavailable(f"ONNX Runtime does not load {provider} here")  # it would run on the CPU
        self._inputs = [one.name for one in self._session.get_inputs()]

    def logits(self, batch: Batch) -> NDArray[np.floating]:
        return self._session.run(None, {name: batch[name] for name in self._inputs})[0]

    def example(self) -> dict[str, Any]:
        """Two pairs of different lengths, padded, as tensors."""
        rows = self.work.read(2)
        texts = [[row[name] for row in rows] for name in ("sentence1", "sentence2")]
        return dict(self._tokenizer(*texts, padding=True, return_tensors="pt"))


@dataclass
class TransformersExporter(OnnxGraph):
    """`transformers.exporters` with onnxscript's fusions for ONNX Runtime's provider. int8: with its dynamic quantizer;
    fp16: of the model in half precision."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = f"transformers-exporters-{self.precision}"
        self.about = f"transformers.exporters, ort_fusions, ONNX Runtime, {self.precision}"

    def settings(self) -> dict[str, Any]:
        quantizer = {} if self.precision != "int8" else {"quantizer": f"OnnxRuntimeDynamicConfig({_QUANTIZER})"}
        return {"dynamic": True, "ort_fusions": self.provider, **quantizer, "versions": installed(["transformers"])}

    def export(self, path: Path) -> None:
        try:
            from transformers.exporters import OnnxConfig, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
            from transformers.exporters.exporter_onnx import OnnxExporter
        except ImportError as error:
            raise Unavailable(str(error)) from None
        int8 = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(**_QUANTIZER))
        fusions: Any = self.provider
        config = OnnxConfig(dynamic=True, ort_fusions=fusions, quantizer=int8 if self.precision == "int8" else None)
        model = hf.model(self.work).eval()
        exported = OnnxExporter().export(
            model.half() if self.precision == "fp16" else model, self.example(), config=config
        )
        OnnxExporter.save_program(exported.program, path)


# Per channel, as every guide to int8 advises.
_QUANTIZER: dict[str, Any] = {"per_channel": True}


@dataclass
class OnnxRuntimeDynamic(OnnxGraph):
    """torch's exporter, then ONNX Runtime's own quantize_dynamic."""

    precision: str = "int8"
    name: str = "onnxruntime-dynamic-int8"
    about: str = "torch.onnx.export, onnxruntime quantize_dynamic per channel"

    def settings(self) -> dict[str, Any]:
        return {"per_channel": True, "weight_type": "QInt8", "versions": installed(["torch", "onnxruntime-gpu"])}

    def export(self, path: Path) -> None:
        import onnx
        import torch
        from onnxruntime.quantization import QuantType, quantize_dynamic

        batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=self.work.max_length)
        given = self.example()
        plain = path.with_name("plain.onnx")
        torch.onnx.export(
            hf.model(self.work).eval(),
            kwargs=given,
            f=str(plain),
            dynamo=True,
            dynamic_shapes={name: {0: batch, 1: length} for name in given},
            external_data=False,
        )
        graph = onnx.load(plain)
        del graph.graph.value_info[:]  # those of transposed initializers contradict shape inference
        onnx.save(graph, plain)
        quantize_dynamic(plain, path, per_channel=True, weight_type=QuantType.QInt8)
