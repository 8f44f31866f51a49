"""`bertnli export`, from top to bottom: a checkpoint becomes a bundle, or nothing at all."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import onnx

from bertnli.errors import InputError, RunError
from bertnli.pairs import PairFile
from bertnli.pretrained import Pretrained, folder_config
from export import bundle, verify
from export.graph import add_metadata, fused_attention, opset_of, torch_logits
from export.precision import GRAPHS
from export.session import Session, choose_device

_VERSIONS = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "tokenizers", "numpy")


def export_bundle(
    source: Pretrained,
    out: Path,
    *,
    precision: str = "fp32",
    verify_data: PairFile | None = None,
    allow_unfused: bool = False,
    force: bool = False,
    name: str | None = None,
    licence: str | None = None,
    disclosure: str | None = None,
) -> dict[str, Any]:
    """Write the bundle of `source` to the folder `out`, parity-checked.

    verify_data: real rows for the parity gate, beside its own pairs. allow_unfused: go on where the graph holds fewer
    fused attention operators than the model has layers. force: replace a bundle that is there. name, licence,
    disclosure: of the checkpoint, for the manifest.

    Where this host has no device for the precision, the bundle is written unverified: it does not score until
    `bertnli verify` has passed on a host that has.

    Returns the summary: `bundle`, `precision`, `fused_attention`, `layers`, and the parity figures (see
    `bundle.Parity`), or `parity` None with `reason` and `next`, what to do. Raises InputError if something is wrong
    beforehand; RunError if the graph cannot be made, is not fused, or does not compute what the checkpoint computes.
    Nothing is left behind then.
    """
    _check_asked(source, precision)
    bundle.check_out(out, force=force)
    config, tokenizer = source.config, source.tokenizer
    rows = None if verify_data is None else verify.RealRows.read(verify_data, config.labels)

    model = source.build().eval()
    checkpoint = partial(torch_logits, model)
    graph = GRAPHS[precision](model)
    attention = _attention(fused_attention(graph), config.num_layers, allow_unfused)
    known = verify.reference(checkpoint, tokenizer)
    try:
        with bundle.written(out, force=force) as folder:
            add_metadata(graph, _metadata(source, precision))
            onnx.save_model(graph, folder / bundle.MODEL)
            tokenizer.save(folder)
            bundle.write_json(folder / bundle.CONFIG, folder_config(config, tokenizer))
            known.save(folder / bundle.PARITY)
            device, reason = _device(precision)
            parity = None
            if device is not None:
                session = Session(folder / bundle.MODEL, device)
                parity = verify.gate(checkpoint, session, known, tokenizer, precision, rows)
            bundle.seal(
                folder,
                precision=precision,
                opset=opset_of(graph),
                labels=config.labels,
                max_length=tokenizer.max_length,
                tokenizer_fingerprint=tokenizer.fingerprint,
                attention=attention,
                origin=bundle.Origin(
                    sha256=source.sha256, name=name, family=config.family, licence=licence, disclosure=disclosure
                ),
                parity=parity,
                versions=bundle.versions(_VERSIONS),
            )
    except OSError as error:
        raise RunError(f"{out}: the bundle cannot be written: {error.strerror or error}") from error
    unverified = {"parity": None, "reason": reason, "next": f"on a host with an NVIDIA GPU: bertnli verify {out}"}
    return {
        "bundle": str(out),
        "precision": precision,
        "fused_attention": attention.fused,
        "layers": attention.layers,
        **(unverified if parity is None else parity.model_dump()),
    }


def _check_asked(source: Pretrained, precision: str) -> None:
    if precision not in GRAPHS:
        raise InputError("--precision", found=repr(precision), expected=" or ".join(GRAPHS))
    if not source.has_classifier:
        raise InputError(
            "the model has no classifier",
            found="an encoder alone",
            expected="a model trained on sentence pairs",
            do="train it first: bertnli train RUN.yaml",
        )


def _device(precision: str) -> tuple[str | None, str | None]:
    """The device of this host to compare the graph on; or None, and why there is none."""
    if "cpu" in bundle.DEVICES[precision]:
        return "cpu", None
    try:
        if choose_device("auto") == "cuda":
            return "cuda", None
    except InputError as error:
        return None, str(error)
    return None, "no NVIDIA GPU that this process may use"


def _attention(operators: dict[str, int], layers: int, allow_unfused: bool) -> bundle.Attention:
    fused = sum(operators.values())
    if fused < layers and not allow_unfused:
        raise RunError(
            "the exported graph's attention is not fused",
            found=f"{fused} fused operators",
            expected=f"{layers}, one for each layer",
            do="install the versions in constraints.txt, or accept a slower bundle with --allow-unfused",
        )
    return bundle.Attention(fused=fused, layers=layers, operators=operators)


def _metadata(source: Pretrained, precision: str) -> dict[str, str]:
    return {
        "version": bundle.versions([])["bertnli"],
        "labels": ",".join(source.config.labels),
        "max_length": str(source.tokenizer.max_length),
        "truncation": source.tokenizer.settings.truncation,
        "precision": precision,
        "tokenizer_fingerprint": source.tokenizer.fingerprint,
        "source_sha256": source.sha256,
    }
