"""The precision of a run on the device that it has."""

from __future__ import annotations

import torch

from bertnli.common.errors import InputError


def resolve_precision(precision: str, device: torch.device) -> str:
    """`auto` becomes bf16 if the device supports it, otherwise fp16 on a GPU and fp32 on a CPU.

    Raises InputError for a precision that the device does not support.
    """
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        bf16 = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if precision == "auto":
        return "bf16" if bf16 else "fp16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        do = "set precision: auto, or in a DeepSpeed file fp16.enabled: auto"
        raise InputError("precision: fp16", found="a CPU, which trains in fp32 or bf16 only", do=do)
    if precision == "bf16" and device.type == "cuda" and not bf16:
        raise InputError("precision: bf16", found=torch.cuda.get_device_name(device), do="set precision: fp16")
    return precision
