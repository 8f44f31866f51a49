"""The transformers Trainer: at its defaults, and at the best settings its documentation offers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Peer, Run, Unavailable
from benchmarks.peers import hf
from benchmarks.work import MICRO_BATCH, Work


@dataclass
class TransformersTrainer(Peer):
    """One `Trainer.train()` a run, timed from on_train_begin to on_train_end.

    best: bf16, train_sampling_strategy="group_by_length", optim="adamw_torch_fused". The rows already stand as
    group_by_length orders them over the whole corpus (see `work`), so they are read in order ("sequential"): grouping
    the few rows of a run anew would leave more padding than the Trainer has in a real epoch. A large batch is then
    accumulated from micro-batches, which on a CPU is faster than taking it whole.
    """

    work: Work
    best: bool = False

    def __post_init__(self) -> None:
        self.name = "trainer-best" if self.best else "trainer-defaults"
        settings = "bf16, group_by_length, fused AdamW" if self.best else "its defaults: fp32, random batches"
        self.about = f"transformers Trainer, {settings}"
        # A loss in bf16 is good for three digits; the Trainer's log has four.
        self.tolerance = 2e-2 if self.best else 1e-3

    def options(self) -> dict[str, Any]:
        batch_size = self.work.batch_size
        given: dict[str, Any] = {
            "per_device_train_batch_size": batch_size,
            "learning_rate": self.work.learning_rate,
            "lr_scheduler_type": "constant",
            "save_strategy": "no",
            "report_to": "none",
        }
        if self.best:
            micro_batch = min(batch_size, MICRO_BATCH)
            given |= {
                "per_device_train_batch_size": micro_batch,
                "gradient_accumulation_steps": batch_size // micro_batch,
                "bf16": True,
                "optim": "adamw_torch_fused",
                "train_sampling_strategy": "sequential",
            }
        return given

    def check(self) -> list[float]:
        """The losses of the first steps, each on the first batch of the rows, without dropout."""
        self._model = hf.model(self.work, dropout=0.0)
        self._features = hf.features(self.work, self.work.batch_size)
        trainer = self._trainer(max_steps=self.check_steps, logging_steps=1)
        trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    def prepare(self) -> None:
        self._model = hf.model(self.work)
        self._features = hf.features(self.work)

    def run(self, amount: int) -> Run:
        steps = max(1, min(amount, self.work.pairs) // self.work.batch_size)
        clock = _clock()
        self._trainer(clock, max_steps=steps).train()
        return Run(steps * self.work.batch_size, clock.ended - clock.began)

    def _trainer(self, *callbacks: Any, **more: Any) -> Any:
        try:
            import accelerate  # type: ignore[import-not-found] # noqa: F401 - the Trainer needs it
        except ImportError as error:
            raise Unavailable(f"the Trainer needs accelerate: {error}") from None
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

        arguments = TrainingArguments(
            output_dir=str(self.work.folder / self.name), use_cpu=hf.device().type == "cpu", **self.options(), **more
        )
        tokenizer = hf.tokenizer(self.work)
        return Trainer(
            self._model,
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=self._features,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )


def _clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.perf_counter()

    return Clock()
