"""The transformers Trainer: with its defaults, and with the best settings that its documentation offers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from benchmarks.peer import Peer, Run, Unavailable
from benchmarks.peers import hf
from benchmarks.work import Work


@dataclass
class TransformersTrainer(Peer):
    """One `Trainer.train()` a run, timed from on_train_begin to on_train_end.

    best: bf16, train_sampling_strategy="group_by_length", optim="adamw_torch_fused". The rows are already in the order
    of group_by_length over the complete corpus (see `work`), so they are read in order ("sequential"): grouping the few
    rows of a run again would leave more padding than the Trainer has in a real epoch. A large batch is accumulated from
    the work's micro-batches, which on a CPU is faster than one large batch. workers: processes that collate batches, as
    a GPU needs them. untimed_steps: the first steps of a run do not count; on a GPU a run takes seconds, and starting
    the workers would count.
    """

    work: Work
    best: bool = False
    workers: int = 0
    untimed_steps: int = 0

    def __post_init__(self) -> None:
        self.name = "trainer-best" if self.best else "trainer-defaults"
        settings = "bf16, group_by_length, fused AdamW" if self.best else "its defaults: fp32, random batches"
        self.about = f"transformers Trainer, {settings}"
        # A loss in bf16 has three valid digits; the Trainer's log has four.
        self.tolerance = 2e-2 if self.best else 1e-3

    def options(self) -> dict[str, Any]:
        batch_size = self.work.batch_size
        given: dict[str, Any] = {
            "per_device_train_batch_size": batch_size,
            "learning_rate": self.work.learning_rate,
            "lr_scheduler_type": "constant",
            "save_strategy": "no",
            "report_to": "none",
            "dataloader_num_workers": self.workers,
        }
        if self.best:
            micro_batch = min(batch_size, self.work.micro_batch)
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
        trainer = self.trainer(max_steps=self.check_steps, logging_steps=1)
        trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    def prepare(self) -> None:
        self._model = hf.model(self.work)
        self._features = hf.features(self.work)

    def run(self, amount: int) -> Run:
        steps = max(1, min(amount, self.work.pairs) // self.work.batch_size)
        clock = _clock(self.untimed_steps)
        self.trainer(clock, max_steps=self.untimed_steps + steps).train()
        return Run(steps * self.work.batch_size, clock.ended - clock.began)

    def trainer(self, *callbacks: Any, **changes: Any) -> Any:
        """A Trainer with what `prepare` has loaded, and with `options` updated by `changes`."""
        try:
            import accelerate  # type: ignore[import-not-found] # noqa: F401 - the Trainer needs it
        except ImportError as error:
            raise Unavailable(f"the Trainer needs accelerate: {error}") from None
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

        fixed = {"output_dir": str(self.work.folder / self.name), "use_cpu": hf.device().type == "cpu"}
        arguments = TrainingArguments(**fixed, **(self.options() | changes))
        tokenizer = hf.tokenizer(self.work)
        trainer = Trainer(
            self._model,
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=self._features,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        # BERT's loss is always the mean over a micro-batch. Without this the Trainer would add up the means of an
        # accumulated step instead of dividing by their number.
        trainer.loss_is_scaled_for_ga = False
        return trainer


def _clock(untimed_steps: int) -> Any:
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step == untimed_steps:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                self.began = time.perf_counter()

        # The Trainer has read the loss, so the device has finished.
        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.perf_counter()

    return Clock()
