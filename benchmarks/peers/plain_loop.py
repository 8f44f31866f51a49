"""A plain torch loop with exactly bertnli's model, batches and arithmetic. It shows what DeepSpeed's engine costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.peers.loop import Loop


@dataclass
class PlainLoop(Loop):
    """bertnli's packed model, order of pairs, micro-batches and allocator settings, with torch.autocast and AdamW."""

    whole_last_block: ClassVar[bool] = False
    name: str = "plain-loop"
    about: str = "plain torch loop, bertnli's model and batches"
    precision: str = "bf16"
    tolerance: float = 2e-2  # a loss in bf16 has three valid digits
    micro_batch_tokens: int | None = None
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def options(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "optimizer": "torch.optim.AdamW(fused=True)",
            "micro_batch_tokens": self.micro_batch_tokens,
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
        }

    def load(self, pairs: int, dropout: float | None) -> None:
        from bertnli.train.allocator import keep_freed_memory

        keep_freed_memory()
        import torch

        from bertnli.data.batches import Stream
        from bertnli.data.corpus import prepare
        from bertnli.data.pairs import PairFile
        from bertnli.model import pretrained
        from bertnli.train.embedding_gradient import clip_gradients, make_sparse
        from bertnli.train.micro_batch_size import CPU_TOKENS, MOST

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.micro_tokens = self.micro_batch_tokens or (CPU_TOKENS if self.device.type == "cpu" else MOST)
        source = pretrained.load(self.work.model, max_length=self.work.max_length)
        self.corpus = prepare(PairFile(str(self.work.head(pairs))), source.tokenizer, source.config.labels)
        config = source.config if dropout is None else source.config.with_dropout(dropout)
        torch.manual_seed(0)
        self.model = source.build(config).to(self.device).train()
        decayed = [parameter for parameter in self.model.parameters() if parameter.dim() > 1]
        kept = [parameter for parameter in self.model.parameters() if parameter.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": kept, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=self.work.learning_rate, fused=True)
        self.clip = torch.nn.utils.clip_grad_norm_
        if self.device.type == "cpu":
            make_sparse(self.model.embeddings.token, self.optimizer)
            self.clip = clip_gradients
        self.stream, self.steps = Stream(len(self.corpus), self.work.batch_size, seed=0), 0

    def step(self) -> float:
        """One optimizer step; returns its mean loss."""
        import numpy as np
        import torch
        import torch.nn.functional as F

        from bertnli.data.batches import assign_to_ranks, pack
        from bertnli.model.attention import to_device

        torch.manual_seed(np.random.SeedSequence([0, self.steps, 0]).generate_state(1)[0])
        chosen = self.stream.step(self.steps)
        loss_sum = torch.zeros((), device=self.device)
        for indices in assign_to_ranks(chosen, self.corpus.lengths, world=1).micro_batches(0, self.micro_tokens):
            labels = torch.from_numpy(self.corpus.labels[indices].astype(np.int64)).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = self.model(*to_device(pack(self.corpus, indices), self.device)).float()
            loss = F.cross_entropy(logits, labels, reduction="sum")
            (loss / len(chosen)).backward()
            loss_sum += loss.detach()
        self.clip(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return float(loss_sum) / len(chosen)
