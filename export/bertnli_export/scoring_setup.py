"""What scoring starts from, decided once: a bundle whose files were checked, the device and the temperature."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from bertnli.common.errors import InputError
from bertnli.common.urls import is_url
from bertnli.data.outputs import THRESHOLD
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
    threshold: float  # of independent labels: those with a probability above it are predicted


def prepare(
    path: str | os.PathLike[str],
    device: str | Device = "auto",
    temperature: float | None = None,
    *,
    threshold: float | None = None,
    unverified: bool = False,
) -> ScoringSetup:
    """Open the bundle at `path`, a folder or a URL (remote_bundle.py), compare its files with its manifest, and choose
    the device and the options.

    device: as `choose_device` takes it, or one that was chosen already. temperature: by default the bundle's own.
    threshold: of a model with independent labels, by default 0.5. unverified: accept a bundle that was never compared
    with its checkpoint.

    Raises InputError if the bundle is damaged, contradicts itself or was never verified, if ONNX Runtime is too old, if
    the device cannot be used or does not run the bundle's precision, or if the temperature or the threshold has no
    meaning for the bundle's model or is out of range.
    """
    from bertnli_export.bundle import Bundle  # it loads pydantic: `from bertnli import Scorer` stays light

    if is_url(os.fspath(path)):
        from bertnli_export.remote_bundle import local_bundle

        path = local_bundle(os.fspath(path))
    bundle = Bundle.open(path, unverified=unverified)
    check_runtime(bundle.manifest.onnxruntime, str(bundle.path))
    bundle.check_files()
    bundle.check_config()
    chosen = device if isinstance(device, Device) else choose_device(device)
    bundle.check_device(chosen)
    options = choose_temperature(bundle, temperature), choose_threshold(bundle, threshold)
    return ScoringSetup(bundle, bundle.tokenizer(), chosen, *options)


def choose_temperature(bundle: Bundle, asked: float | None) -> float:
    """`asked`, or the bundle's own. Raises InputError for one that is not a finite number above 0, and for a model that
    gives raw scores, which are no probabilities."""
    if asked is None:
        return bundle.manifest.temperature
    if bundle.outputs.activation == "identity":
        raise InputError(
            "--temperature", found=f"{bundle.path}, whose scores are no probabilities", do="omit --temperature"
        )
    if not 0 < asked < inf:
        raise InputError("--temperature", found=str(asked), expected="a number above 0")
    return float(asked)


def choose_threshold(bundle: Bundle, asked: float | None) -> float:
    """`asked`, or 0.5. Raises InputError for one that is not between 0 and 1, and for a model that does not need it."""
    if asked is None:
        return THRESHOLD
    if bundle.outputs.problem_type != "multi_label_classification":
        found = "a score" if bundle.outputs.problem_type == "regression" else "one of its labels"
        raise InputError(
            "--threshold",
            found=f"{bundle.path}, whose model gives a pair {found}",
            expected="a model with independent labels",
            do="omit --threshold",
        )
    if not 0 < asked < 1:
        raise InputError("--threshold", found=str(asked), expected="a number between 0 and 1")
    return float(asked)
