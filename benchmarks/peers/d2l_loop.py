"""The d2l book's own loop: every pair padded to 128 tokens, fp32, nothing clever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Peer, Run, stopwatch
from benchmarks.peers import hf
from benchmarks.work import MAX_LENGTH, Work


@dataclass
class D2lLoop(Peer):
    """Dive into Deep Learning, section 16.7 and `train_batch_ch13`, with this benchmark's model and AdamW.

    Every pair costs the same here, so a run may take fewer of them than the other peers'.
    """

    work: Work
    name: str = "d2l-loop"
    about: str = "the d2l book's loop, padded to 128, fp32"
    share: float = 0.25
    """Of the pairs asked for; the loop is an order of magnitude slower than the rest."""

    def options(self) -> dict[str, Any]:
        return {
            "padding": "max_length",
            "max_length": MAX_LENGTH,
            "optimizer": "torch.optim.AdamW",
            "loss": "CrossEntropyLoss(reduction='none'), summed",
            "shuffle": True,
            "share_of_the_pairs": self.share,
        }

    def check(self) -> list[float]:
        self._load(self.work.batch_size, dropout=0.0)
        return [self._step() / self.work.batch_size for _ in range(self.check_steps)]

    def prepare(self) -> None:
        self._load(self.work.pairs, dropout=None)

    def run(self, amount: int) -> Run:
        steps = max(1, int(amount * self.share) // self.work.batch_size)
        with stopwatch() as seconds:
            for _ in range(steps):
                self._step()
        return Run(steps * self.work.batch_size, seconds())

    def _load(self, pairs: int, dropout: float | None) -> None:
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        rows = hf.features(self.work, pairs, pad=True)
        names = ("input_ids", "token_type_ids", "attention_mask", "labels")
        data = TensorDataset(*(torch.tensor([row[name] for row in rows]) for name in names))
        self._batches = _endless(DataLoader(data, self.work.batch_size, shuffle=True))
        self._device = hf.device()
        self._net = hf.model(self.work, dropout=dropout).to(self._device)
        self._trainer = torch.optim.AdamW(self._net.parameters(), lr=self.work.learning_rate)
        self._loss = torch.nn.CrossEntropyLoss(reduction="none")

    def _step(self) -> float:
        """One step as the book takes it; returns the summed loss."""
        ids, segments, mask, labels = (part.to(self._device) for part in next(self._batches))
        self._net.train()
        self._trainer.zero_grad()
        predicted = self._net(input_ids=ids, token_type_ids=segments, attention_mask=mask).logits
        loss = self._loss(predicted, labels)
        loss.sum().backward()
        self._trainer.step()
        (predicted.argmax(dim=1) == labels).sum().item()
        return float(loss.sum())


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
