"""Files of named tensors: safetensors, and PyTorch's own format read without running what is in it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from bertnli.common.errors import InputError


def parse(content: bytes, where: str) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, as they are; safetensors if its name `where` says so, else `torch.save`'s.

    Raises InputError naming `where` if it is damaged, or a pickle with anything but tensors in it.
    """
    try:
        if where.endswith(".safetensors"):
            tensors = safetensors.torch.load(content)
        else:
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes both libraries raise nearly anything
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise InputError(
                f"{where}: refused, for a pickle that names code could run it",
                found=code[1],
                expected="a state dict of tensors alone, as torch.save(model.state_dict(), …) writes",
                do="save the weights again so, or as safetensors",
            ) from None
        found = f"{len(content):,} bytes, {type(error).__name__} {' '.join(str(error).split())[:120]}".rstrip()
        raise InputError(f"{where}: damaged, or no file of tensors", found=found, do="fetch it again") from None
    if not isinstance(tensors, dict):
        raise InputError(where, found=f"a {type(tensors).__name__}", expected="a state dict: names to tensors")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            found = f"{name!r}, a {type(tensor).__name__}"
            raise InputError(where, found=found, expected="a state dict: names to tensors")
        if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise InputError(
                f"{where}: key {name}", found=f"a {tensor.layout} tensor on {tensor.device}", expected="a dense one"
            )
    return tensors


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file with the permissions of any new file (the library's own are its owner's alone).

    Raises OSError or safetensors.SafetensorError where the disk does not take it.
    """
    path.touch()
    permissions = path.stat().st_mode
    safetensors.torch.save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(permissions)
