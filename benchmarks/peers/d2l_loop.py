"""The d2l book's own loop: every pair padded to 128 tokens, in fp32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.peers import hf
from benchmarks.peers.loop import Loop, endless
from benchmarks.work import MAX_LENGTH


@dataclass
class D2lLoop(Loop):
    """Dive into Deep Learning, section 16.7 and `train_batch_ch13`, with this benchmark's model and AdamW.

    Every pair costs the same here, so a run may use fewer of them than the other peers' runs. A batch that is too large
    for the memory that all peers share is split, and the gradients of its parts are added, which costs no time.
    """

    name: str = "d2l-loop"
    about: str = "the d2l book's loop, padded to 128, fp32"
    share: float = 0.25  # the loop is an order of magnitude slower than the rest

    def options(self) -> dict[str, Any]:
        return {
            "padding": "max_length",
            "max_length": MAX_LENGTH,
            "optimizer": "torch.optim.AdamW",
            "loss": "CrossEntropyLoss(reduction='none'), summed",
            "shuffle": True,
            "micro_batch": min(self.work.batch_size, self.work.micro_batch),
            "share_of_the_pairs": self.share,
        }

    def load(self, pairs: int, dropout: float | None) -> None:
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        rows = hf.features(self.work, pairs, pad=True)
        names = ("input_ids", "token_type_ids", "attention_mask", "labels")
        data = TensorDataset(*(torch.tensor([row[name] for row in rows]) for name in names))
        self._parts = max(1, self.work.batch_size // self.work.micro_batch)
        self._batches = endless(DataLoader(data, self.work.batch_size // self._parts, shuffle=True))
        self._device = hf.device()
        self._net = hf.model(self.work, dropout=dropout).to(self._device)
        self._trainer = torch.optim.AdamW(self._net.parameters(), lr=self.work.learning_rate)
        self._loss = torch.nn.CrossEntropyLoss(reduction="none")

    def step(self) -> float:
        """One step as the book takes it."""
        self._net.train()
        self._trainer.zero_grad()
        total = 0.0
        for _ in range(self._parts):
            ids, segments, mask, labels = (part.to(self._device) for part in next(self._batches))
            predicted = self._net(input_ids=ids, token_type_ids=segments, attention_mask=mask).logits
            loss = self._loss(predicted, labels)
            loss.sum().backward()
            (predicted.argmax(dim=1) == labels).sum().item()
            total += float(loss.detach().sum())
        self._trainer.step()
        return total / self.work.batch_size
