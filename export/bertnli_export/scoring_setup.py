"""What scoring starts from, decided once: a bundle whose files were checked, the device and the temperature."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from bertnli.common.errors import InputError
from bertnli_export.devices import Device, choose_device
from bertnli_export.runtime import check_runtime

if TYPE_CHECKING:
    from bertnli.data.tokenizer import PairTokenizer
    from bertnli_export.bundle import Bundle


@dataclass(frozen=True)
class ScoringSetup:
    """A bundle that was checked, and what was chosen for it. It can be pickled, for worker processes."""

    bundle: Bundle
    tokenizer: PairTokenizer
    device: Device
    temperature: float


def prepare(
    path: str | os.PathLike[str],
    device: str | Device = "auto",
    temperature: float | None = None,
    *,
    unverified: bool = False,
) -> ScoringSetup:
    """Open the bundle at `path`, compare its files with its manifest, and choose the device and the temperature.

    device: as `choose_device` takes it, or one that was chosen already. temperature: by default the bundle's own.
    unverified: accept a bundle that was never compared with its checkpoint.

    Raises InputError if the bundle is damaged, contradicts itself or was never verified, if ONNX Runtime is too old, if
    the device cannot be used or does not run the
    bundle's precision, or if the temperature is not above 0.
    """
    from bertnli_export.bundle import Bundle  # it loads pydantic: `from bertnli import Scorer` stays light

    bundle = Bundle.open(path, unverified=unverified)
    check_runtime(bundle.manifest.onnxruntime, str(bundle.path))
    bundle.check_files()
    bundle.check_config()
    chosen = device if isinstance(device, Device) else choose_device(device)
    bundle.check_device(chosen)
    return ScoringSetup(bundle, bundle.tokenizer(), chosen, choose_temperature(bundle, temperature))


def choose_temperature(bundle: Bundle, asked: float | None) -> float:
    """`asked`, or the bundle's own. Raises InputError for one that is not a finite number above 0."""
    if asked is None:
        return bundle.manifest.temperature
    if not 0 < asked < inf:
        raise InputError("--temperature", found=str(asked), expected="a number above 0")
    return float(asked)
