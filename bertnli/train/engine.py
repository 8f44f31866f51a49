"""DeepSpeed's engine and the process group of a job: the only file that imports deepspeed or torch.distributed.

All other code that depends on ranks takes `rank` and `world` as arguments, and is the same for one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

# Set before deepspeed looks for a device: otherwise it probes the libraries of other vendors and logs about each.
import torch

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed
import deepspeed.comm as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from bertnli.common.errors import InputError, ReportedElsewhere, RunError, first_line
from bertnli.common.network import free_port, with_port
from bertnli.model.attention import copy_async
from bertnli.model.classifier import PairClassifier
from bertnli.run.config import RunConfig
from bertnli.train.allocator import keep_freed_memory
from bertnli.train.eager_adamw import eager_adamw
from bertnli.train.embedding_gradient import clip_gradients, make_sparse
from bertnli.train.own_gpu import gpu_id, own_gpu
from bertnli.train.parameter_groups import parameter_groups
from bertnli.train.pending_sum import PendingSum

# DeepSpeed's CPU collectives are a C++ extension that is compiled at first use. Without a compiler the job fails; with
# one the first run takes minutes, and a kill during the build leaves a lock that later runs wait for without end. gloo
# is used instead. DeepSpeed would fill this dict when it is first read, and run the compiler to do so.
deepspeed.ops.__compatible_ops__ = {}

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's moments, by their names in torch.optim
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # the state of fp16's loss scaler


class ProcessGroup:
    """The processes of the job (torch.distributed's default group); the constructor joins it.

    rank, world: this process's number and their count, over all hosts; local_rank: its number on this host; device:
    what it computes on.
    """

    def __init__(self) -> None:
        self._linear = nn.functional.linear
        if "RANK" not in os.environ:
            os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
        if os.environ["WORLD_SIZE"] == "1":  # nobody else is to be met, at whatever address the environment has
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        cuda = torch.cuda.is_available()
        if cuda:
            gpu = own_gpu(self.local_rank, torch.cuda.device_count())
            os.environ["LOCAL_RANK"] = str(gpu)  # DeepSpeed takes the GPU of that number
        with _named_failures():
            deepspeed.init_distributed(
                dist_backend="nccl" if cuda else "gloo",
                auto_mpi_discovery="OMPI_COMM_WORLD_RANK" in os.environ,
                verbose=False,
            )
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = torch.device("cuda", gpu) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)
            self._check_own_gpus(gpu_id(self.device))
        else:
            keep_freed_memory()

    def _check_own_gpus(self, own_id: str) -> None:
        """Raises InputError if two ranks have one GPU. NCCL would end them later, with an error of its own."""
        if self.world == 1:
            return
        over_cpu = torch.distributed.new_group(backend="gloo")
        ids: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(ids, own_id, group=over_cpu)
        sharing = [rank for rank, other in enumerate(ids) if ids.count(other) > 1]
        if sharing and self.rank != sharing[0]:
            raise ReportedElsewhere("reported by another rank")
        if sharing:
            raise InputError(
                f"ranks {', '.join(map(str, sharing))} share GPUs",
                found=", ".join(dict.fromkeys(ids[rank] for rank in sharing)),
                expected="a GPU for each rank",
                do="start fewer ranks on each host",
            )

    def start_sum(self, on_device: Tensor, on_host: Sequence[float] = ()) -> PendingSum:
        """Each value summed over all ranks, in float64: those of `on_device`, `[values]`, then those of `on_host`.

        A GPU is not waited for; on a CPU all ranks are.
        """
        zeros = [0.0] * len(on_device)
        total = copy_async(torch.tensor([*zeros, *on_host], dtype=torch.float64), self.device)
        total[: len(on_device)] += on_device
        if self.world > 1:
            dist.all_reduce(total)
        return PendingSum(total)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all ranks, in float64. Waits for the device and for all ranks."""
        return self.start_sum(torch.empty(0, device=self.device), values).read()[0]

    def gather(self, value: float) -> list[float]:
        """The value of each rank, by rank. Waits for the device and for all ranks."""
        return self.sum([value if rank == self.rank else 0.0 for rank in range(self.world)])

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        if self.world > 1:
            dist.barrier()

    @contextmanager
    def agree(self) -> Iterator[None]:
        """Around checks that every rank makes: an InputError on one rank ends all ranks, and one of them reports it.

        All ranks wait for each other at the end, because a launcher kills the others as soon as one ends, perhaps
        before the rank that reports has done so.
        """
        error = None
        try:
            yield
        except InputError as found:
            error = found
        failed = self.gather(float(error is not None))
        if any(failed):
            raise error if error is not None and not any(failed[: self.rank]) else ReportedElsewhere("by another rank")

    def close(self) -> None:
        nn.functional.linear = self._linear  # ZeRO-3 replaces it for all models of the process
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _named_failures() -> Iterator[None]:
    """torch.distributed's errors when this process joins the others, as errors for the user."""
    address = with_port(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    try:
        yield
    except torch.distributed.DistError as error:
        if "EADDRINUSE" in str(error):
            raise InputError(
                f"MASTER_PORT {os.environ['MASTER_PORT']}, where rank 0 waits for the other ranks",
                found="another process has this port",
                do="set MASTER_PORT to a free port, the same for all ranks (bertnli launch: --master-port)",
            ) from None
        raise RunError(
            f"rank {os.environ['RANK']} cannot join the other ranks at {address}",
            found=first_line(error),
            do="make sure that MASTER_ADDR is rank 0's host, and that every host reaches that port",
        ) from None


def parse_settings(settings: dict[str, Any]) -> None:
    """Check a configuration with DeepSpeed's own parser; raises what DeepSpeed raises."""
    deepspeed.runtime.config.DeepSpeedConfig(settings)


class Engine:
    """A model in DeepSpeed's engine: forward, backward, step; its state by parameter name, at any ZeRO stage."""

    def __init__(self, model: nn.Module, settings: dict[str, Any], config: RunConfig, group: ProcessGroup):
        """`settings`: as `deepspeed_config` returns them for `config`."""
        self.group = group
        # In fp32 and whole: DeepSpeed rounds them in fp16, and keeps no fp32 copy of what is not trained.
        self._frozen = {name: one.detach().cpu() for name, one in model.named_parameters() if not one.requires_grad}
        model.to(group.device)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = parameter_groups(model, config)
        # The learning rate is 0 until `step`: some of DeepSpeed's wrappers take a step with zero gradients in set-up.
        adamw = eager_adamw(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(model=model, optimizer=adamw, config=settings)
        alone = group.world == 1 and settings["zero_optimization"]["stage"] == 0
        if alone:
            # It would copy all gradients into a buffer and back, to sum them over one rank.
            self._engine.enable_backward_allreduce = False
        self._adamw = adamw if self._optimizer is adamw else self._optimizer.optimizer
        # At ZeRO-0 in fp32 and bf16 DeepSpeed clips one parameter after the other: 300 kernels and two waits for
        # BERT-base. The gradients are the same on all ranks by then, so each clips them by itself.
        clip: Callable[..., object] = partial(nn.utils.clip_grad_norm_, foreach=True)
        if alone and self._optimizer is adamw and group.device.type == "cpu" and isinstance(model, PairClassifier):
            clip = clip_gradients
            make_sparse(model.embeddings.token, adamw)
        self._engine.clip_fp32_gradients = partial(clip, trained, settings["gradient_clipping"])
        self._make_state()
        self._scaler, self._lowest_scale = self._find_scaler()

    def __call__(self, *inputs: Any) -> Tensor:
        return self._engine(*inputs)

    def train(self) -> None:
        self._engine.train()

    def eval(self) -> None:
        self._engine.eval()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, this rank's share of the step's mean loss.

        DeepSpeed averages gradients over the ranks, but the loss is divided by the step's pairs already: multiplying by
        the number of ranks undoes its division. The one by accumulation steps is turned off (`scale_wrt_gas`).
        """
        loss = loss * self.group.world
        unscaled = getattr(self._optimizer, "loss_scale_config", None)
        if unscaled is not None:
            # fp16's small gradients would become 0, so a loss is multiplied by a loss scale before backward, and the
            # gradients are divided by it (Micikevicius et al. 2018). At ZeRO-0 DeepSpeed 0.19 only divides.
            loss = loss * unscaled.cur_scale
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> None:
        """End the optimizer step: reduce gradients over the ranks, clip, update, zero.

        learning_rate: the head's; that of the other parameters is this one times their group's factor.

        In fp16 a step whose gradients overflow is skipped and the loss scale is halved. Raises RunError if the scale is
        already at its minimum.
        """
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate * group["lr_scale"]
        lowest = self._scaler is not None and self._scaler.cur_scale <= self._lowest_scale
        skipped = self.skipped_steps
        self._engine.step()
        if lowest and self.skipped_steps > skipped:
            raise RunError(
                f"fp16: the gradients overflow at the smallest loss scale, {self._lowest_scale:g}",
                do="lower learning_rate, or set precision: bf16 or fp32; give a new output",
            )

    @property
    def buffer_bytes(self) -> int:
        """What DeepSpeed allocates in the first backward pass, to sum gradients over the ranks in."""
        elements = getattr(self._optimizer, "reduce_bucket_size", None)  # ZeRO-1 to 3: of two buffers
        if elements is not None:
            return 2 * 4 * elements
        trained = (parameter.numel() for parameter in self._engine.module.parameters() if parameter.requires_grad)
        return 4 * sum(trained) * (self.group.world > 1)

    @property
    def skipped_steps(self) -> int:
        """Optimizer steps that were skipped because fp16's gradients overflowed."""
        return self._engine.skipped_steps

    def loss_scale_metrics(self) -> dict[str, float]:
        """fp16's loss scale and the number of steps skipped so far; empty in other precisions."""
        if self._scaler is None:
            return {}
        return {"loss_scale": float(self._scaler.cur_scale), "skipped_steps": self.skipped_steps}

    def state(self) -> dict[str, Tensor]:
        """fp32 weights and AdamW's moments as `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, on the CPU.

        Frozen parameters have a weight and no moments.
        The state of fp16's loss scaler is in `scaler/NAME`. The result does not depend on the number of ranks or the
        ZeRO stage. Every rank must call it, and each gets the complete state.
        """
        state = {f"{kind}/{name}": tensor for name, parts in self._full_tensors() for kind, tensor in parts.items()}
        scaler = {name: getattr(self._scaler, name) for name in _SCALER if hasattr(self._scaler, name)}
        scaler["skipped_steps"] = self.skipped_steps
        return state | {f"scaler/{name}": torch.tensor(value, dtype=torch.float64) for name, value in scaler.items()}

    def weights(self) -> dict[str, Tensor]:
        """The fp32 weights by name, on the CPU. Every rank must call it."""
        return {name: parts["weight"] for name, parts in self._full_tensors(moments=False)}

    def load_state(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Load what `state` returned after `steps` optimizer steps, on any number of ranks and at any ZeRO stage."""
        for name, parameter in self._engine.module.named_parameters():
            for kind in self._kinds(name):
                self._set_full(name, parameter, kind, state[f"{kind}/{name}"])
        for name in _SCALER:
            if f"scaler/{name}" in state and hasattr(self._scaler, name):
                value = state[f"scaler/{name}"].item()
                setattr(self._scaler, name, value if name == "cur_scale" else int(value))
        self._engine.skipped_steps = int(state["scaler/skipped_steps"])
        self._set_steps(steps - self.skipped_steps)

    # ------------------------------------------------------------------------------------------------------------

    def _make_state(self) -> None:
        """Make AdamW's state, all zeros, before the first step, so that a checkpoint can be loaded into it.

        torch makes it in the first step only. A step that DeepSpeed's wrappers take in set-up must not count.
        """
        # The tensors that AdamW updates. At ZeRO-3 its parameter groups are empty between steps.
        updated = getattr(self._optimizer, "fp32_partitioned_groups_flat", None)
        if updated is None:
            updated = [tensor for group in self._adamw.param_groups for tensor in group["params"]]
        for tensor in updated:
            self._adamw.state[tensor] = {
                "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
                **{kind: torch.zeros_like(tensor, requires_grad=False) for kind in MOMENTS},
            }
        link = getattr(self._optimizer, "_lazy_init_hp_params_optimizer_state", None)  # ZeRO-1 and 2
        if link is not None:
            link()

    def _find_scaler(self) -> tuple[Any, float]:
        """DeepSpeed's dynamic loss scaler and its minimum scale; (None, 0) if there is no such scaler.

        At ZeRO-0 the scaler is part of the optimizer, and stays at its minimum without end; at other stages it is an
        object that raises a bare Exception there. `step` has one rule for both.
        """
        scaler = getattr(self._optimizer, "loss_scale_config", None)
        if scaler is not None:
            return (scaler, scaler.min_loss_scale) if scaler.dynamic_loss_scale else (None, 0.0)
        scaler = getattr(self._optimizer, "loss_scaler", None)
        if scaler is None or not scaler.dynamic:
            return None, 0.0
        scaler.raise_error_at_min_scale = False
        return scaler, scaler.min_scale

    def _set_steps(self, steps: int) -> None:
        for state in self._adamw.state.values():
            state["step"].fill_(steps)

    def _full_tensors(self, moments: bool = True):
        for name, parameter in self._engine.module.named_parameters():
            kinds = self._kinds(name) if moments else ("weight",)
            parts = {kind: self._get_full(name, parameter, kind) for kind in kinds}
            yield name, {kind: part.detach().to("cpu", copy=True) for kind, part in parts.items()}

    def _kinds(self, name: str) -> tuple[str, ...]:
        return ("weight",) if name in self._frozen else ("weight", *MOMENTS)

    def _get_full(self, name: str, parameter: nn.Parameter, kind: str) -> Tensor:
        if name in self._frozen:
            return self._frozen[name]
        own = self._unsharded(parameter)
        if own is not None:
            return own if kind == "weight" else self._adamw.state[own][kind]
        if kind == "weight":
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, kind)

    def _set_full(self, name: str, parameter: nn.Parameter, kind: str, value: Tensor) -> None:
        if name in self._frozen:
            self._frozen[name] = value
            self._set_working_copy(parameter, value)
            return
        own = self._unsharded(parameter)
        if own is not None:
            target = own if kind == "weight" else self._adamw.state[own][kind]
            target.data.copy_(value)
            if kind == "weight" and own is not parameter:
                parameter.data.copy_(value)
        elif hasattr(parameter, "ds_id"):  # ZeRO-3
            local = self._partition(parameter, value)
            if kind != "weight":
                safe_set_local_optimizer_state(parameter, local, kind)
                return
            safe_set_local_fp32_param(parameter, local)
            self._set_working_copy(parameter, value)
        elif kind == "weight":
            safe_set_full_fp32_param(parameter, value.to(self.group.device))
            self._set_working_copy(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value.to(self.group.device), kind)

    def _set_working_copy(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Set what forward and backward read, which is not the fp32 copy that AdamW updates. At ZeRO-3 it is
        partitioned, too."""
        sharded = hasattr(parameter, "ds_id")
        with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0) if sharded else nullcontext():
            parameter.data.copy_(value)

    def _partition(self, parameter: nn.Parameter, value: Tensor) -> Tensor:
        """This rank's part of `value` at ZeRO-3: all parts have one size, the last is padded with zeros.

        DeepSpeed's safe_set_full_* do not pad, and fail on sizes that are not a multiple of the number of ranks.
        """
        size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
        padded = torch.zeros(size * self.group.world)
        padded[: value.numel()] = value.flatten()
        return padded[size * self.group.rank :][:size].to(self.group.device)

    def _unsharded(self, parameter: nn.Parameter) -> Tensor | None:
        """The tensor that AdamW updates for `parameter` if every rank has all of it (ZeRO-0), otherwise None."""
        if self._optimizer is self._adamw:
            return parameter
        if hasattr(self._optimizer, "fp32_groups") and hasattr(self._optimizer, "fp16_groups"):
            return self._masters().get(parameter)
        return None

    def _masters(self) -> dict[nn.Parameter, Tensor]:
        """For fp16 at ZeRO-0: DeepSpeed's fp32 copy of each parameter."""
        pairs = zip(self._optimizer.fp16_groups, self._optimizer.fp32_groups, strict=True)
        return {low: full for lows, fulls in pairs for low, full in zip(lows, fulls, strict=True)}
