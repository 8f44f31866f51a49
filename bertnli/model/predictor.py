"""A classifier in torch that takes sentence pairs and returns logits, for evaluation and parity checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bertnli.common.errors import InputError, RunError
from bertnli.data.batches import batches_by_length, pack
from bertnli.data.tokenizer import PairTokenizer
from bertnli.model.attention import EVAL_BATCH_TOKENS, to_device
from bertnli.model.classifier import PairClassifier


class TorchPredictor:
    """Runs a model in fp32 on `device`: `cpu`, `cuda`, or `auto` for a GPU if there is one.

    temperature: the model's own; the caller divides the logits by it first. Raises InputError for another
    `device`, and for `cuda` without a GPU.
    """

    def __init__(self, model: PairClassifier, tokenizer: PairTokenizer, device: str = "auto", temperature: float = 1.0):
        if device not in ("auto", "cpu", "cuda"):
            raise InputError("--device", found=device, expected="auto, cpu or cuda")
        there = torch.cuda.is_available()
        if device == "cuda" and not there:
            raise InputError("--device cuda", found="no GPU that torch can use", do="give --device cpu")
        self.device = torch.device("cuda" if there and device != "cpu" else "cpu")
        self._batch_tokens = EVAL_BATCH_TOKENS[self.device.type]  # halved where the GPU is full
        self.model = model.to(self.device).eval()
        self.tokenizer, self.temperature = tokenizer, temperature
        self.labels, self.outputs = model.config.labels, model.config.outputs
        self.truncated = 0  # pairs that were cut so far

    @torch.inference_mode()
    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        """Logits `[pairs, labels]` in the order of the pairs, not divided by the temperature.

        Raises RunError if the GPU has no memory for one pair.
        """
        encoded = self.tokenizer.encode(premises, hypotheses)
        self.truncated += int(encoded.truncated.sum())
        result = np.zeros((len(encoded), len(self.labels)), dtype=np.float32)
        while True:
            try:
                for indices in batches_by_length(encoded.lengths, self._batch_tokens):
                    result[indices] = self.model(*to_device(pack(encoded, indices), self.device)).float().cpu().numpy()
                return result
            except torch.OutOfMemoryError as error:
                if self._batch_tokens <= encoded.lengths.max():
                    raise RunError(
                        "the GPU's memory is full",
                        found=str(error).partition(". ")[0],
                        do="end what else runs on it, or give --device cpu",
                    ) from None
            self._batch_tokens //= 2
