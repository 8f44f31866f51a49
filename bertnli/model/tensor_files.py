"""Files of named tensors: safetensors, and PyTorch's own format, read without running code from it."""

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
    """The tensors of a file, on the CPU, unchanged: safetensors if the name `where` ends so, otherwise `torch.save`'s.

    Raises InputError naming `where` if the file is damaged, or a pickle that contains anything but tensors.
    """
    try:
        if where.endswith(".safetensors"):
            tensors = safetensors.torch.load(content)
        else:
            tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # for a damaged file both libraries raise errors of nearly any type
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise InputError(
                f"{where}: refused, because a pickle that names code could run it",
                found=code[1],
                expected="a state dict with only tensors, as torch.save(model.state_dict(), …) writes",
                do="save the weights again like that, or as safetensors",
            ) from None
        found = f"{len(content):,} bytes, {type(error).__name__} {' '.join(str(error).split())[:120]}".rstrip()
        raise InputError(f"{where}: damaged, or not a file of tensors", found=found, do="fetch it again") from None
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


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises InputError that names `where` and the keys if a weight is NaN or infinite."""
    # The smallest and the largest value are NaN if any is: one pass over the weights, without a copy.
    wild = [name for name, tensor in tensors.items() if not torch.stack(torch.aminmax(tensor)).isfinite().all()]
    if wild:
        more = f" and {len(wild) - 1} more" if wild[1:] else ""
        raise InputError(
            f"{where}: weights that are not finite",
            found=f"NaN or infinity in {wild[0]}{more}",
            do="take a checkpoint from before the training diverged, or fetch the model again",
        )


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file with the umask's permissions (the library's own allow its owner alone).

    Raises OSError or safetensors.SafetensorError if the disk is full or fails.
    """
    path.touch()
    permissions = path.stat().st_mode
    safetensors.torch.save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(permissions)
