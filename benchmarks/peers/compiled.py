"""transformers' model with torch.compile, one batch after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peer import Unavailable
from benchmarks.peers import hf
from benchmarks.peers.onnx_graph import Batch, Tokenised
from bertnli.common.installed import installed


@dataclass
class TorchCompiled(Tokenised):
    """One graph for all shapes (`dynamic=True`), in fp32 or fp16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name, self.about = f"torch-compile-{self.precision}", f"transformers, torch.compile, {self.precision}"

    def settings(self) -> dict[str, Any]:
        return {"dynamic": True, "attn_implementation": "sdpa", "versions": installed(["torch", "transformers"])}

    def load(self) -> None:
        import torch

        super().load()
        self._device = hf.device()
        model = hf.model(self.work).eval().to(self._device)
        self._model = torch.compile(model.half() if self.precision == "fp16" else model, dynamic=True)
        example = {name: np.ones((2, 8), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
        try:
            self.logits(example)
        except Exception as error:  # torch's compilers have no common exception class
            raise Unavailable(f"torch.compile: {str(error).splitlines()[0]}") from None

    def logits(self, batch: Batch) -> NDArray[np.floating]:
        import torch

        with torch.inference_mode():
            given = {name: torch.from_numpy(np.asarray(values)).to(self._device) for name, values in batch.items()}
            return self._model(**given).logits.float().cpu().numpy()
