"""`bertnli export`, from top to bottom: a checkpoint becomes a bundle; if a step fails, nothing is left."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from bertnli.common.errors import InputError, RunError
from bertnli.data.outputs import ProblemType
from bertnli.evaluation.data_sets import LabelledSet
from bertnli.families.folder_config import folder_config
from bertnli.model.pretrained import Pretrained
from bertnli.report.licences import UNKNOWN, LicenceInfo
from bertnli_export import bundle, hub_layout, manifest, new_bundle, runtime, sentences, triton
from bertnli_export.devices import CPU, Device, choose_device
from bertnli_export.graphs import graph as graphs
from bertnli_export.graphs import opset17
from bertnli_export.graphs.graph import add_metadata, fused_attention, opset_of, torch_logits
from bertnli_export.graphs.precision import EXPORTERS
from bertnli_export.parity import RealRows, gate, reference
from bertnli_export.session import Session

LAYOUTS = ("bertnli", "hub", "triton")
OPSETS = {graphs.OPSET: runtime.OLDEST, opset17.OPSET: opset17.OLDEST}
"""The versions of ONNX's operators that a graph may have, and the oldest ONNX Runtime that opens it."""

_COMPARED = ("max_logit_difference", "max_company_difference", "label_flips", "score_error", "accuracy")
_VERSIONS = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "tokenizers", "numpy")


def export_bundle(
    source: Pretrained,
    out: Path,
    *,
    precision: str = "fp32",
    layout: str = "bertnli",
    opset: int = graphs.OPSET,
    verify_data: LabelledSet | None = None,
    allow_unfused: bool = False,
    force: bool = False,
    name: str | None = None,
    terms: LicenceInfo = UNKNOWN,
) -> dict[str, Any]:
    """Write the bundle of `source` to the folder `out`, parity-checked.

    layout: `hub` makes `out` a model as others publish it, in fp32 and in int8 (hub_layout.py); `triton` a model
    repository of Triton Inference Server, in which the bundle is the model `triton.NAME`.

    opset: of ONNX's operators; 17 for programs with an ONNX Runtime of 1.16 or newer (graphs/opset17.py).

    verify_data: real rows for the parity gate, in addition to its built-in pairs. allow_unfused: accept a graph that
    has fewer fused attention operators than the model has layers. force: replace a bundle that exists. name, terms: of
    the checkpoint, for the manifest.

    If this host has no device for the precision, the bundle is written unverified: it cannot be used for scoring until
    `bertnli verify` has passed on a host that has one.

    Returns the summary: `bundle`, `precision`, `fused_attention`, `layers`, and the parity figures (see
    `manifest.Parity`), or `parity` None with `reason` and `next`, what to do; of the hub's layout also those of int8 by
    `int8_…`, and a `note` of what other programs do otherwise. Raises InputError for what is wrong before the start;
    RunError if a graph cannot be made, is not fused, or does not compute what the checkpoint computes. After an error
    nothing is left.
    """
    _check_arguments(source, precision, layout, opset)
    if layout == "triton":
        out = out / triton.NAME
    new_bundle.check_target(out, force=force)
    config, tokenizer = source.config, source.tokenizer
    rows = None if verify_data is None else RealRows.read(verify_data, config.outputs, tokenizer)

    exporter = _Exporter(source, terms, allow_unfused, rows)
    try:
        with new_bundle.new_bundle(out, force=force) as folder:
            tokenizer.save(folder)
            manifest.write_json(folder / manifest.CONFIG, folder_config(config, tokenizer))
            exporter.reference.save(folder / manifest.PARITY)
            files = hub_layout.GRAPHS if layout == "hub" else {precision: manifest.MODEL}
            main, *others = (exporter.write(folder / name, each, layout, opset) for each, name in files.items())
            if layout == "triton":
                triton.arrange_files(folder, config.outputs, precision)
            manifest.write_manifest(
                folder,
                precision=precision,
                opset=main.opset,
                onnxruntime=OPSETS[opset],
                labels=config.labels,
                problem_type=config.problem_type,
                activation=config.output_activation,
                max_length=tokenizer.max_length,
                truncation=tokenizer.settings.truncation,
                lower_case=tokenizer.lower_case,
                temperature=source.temperature,
                tokenizer_fingerprint=tokenizer.fingerprint,
                attention=main.attention,
                origin=manifest.Origin(
                    sha256=source.sha256, name=name, revision=source.revision, family=config.family, **asdict(terms)
                ),
                parity=main.parity,
                versions=manifest.versions(_VERSIONS),
                others={Path(files[other.precision]).name: other.section() for other in others},
            )
    except OSError as error:
        raise RunError(
            f"{out}: the bundle cannot be written: {error.strerror or error}", do="make room, or give another OUT"
        ) from error
    data = "" if verify_data is None else f" --data {verify_data.name}"  # not compared here
    then = f"on a host with an NVIDIA GPU: bertnli verify {out}{data}"
    unverified = {"parity": None, "reason": main.reason, "next": then}
    summary = {
        "bundle": str(out),
        "precision": precision,
        "fused_attention": main.attention.fused,
        "layers": main.attention.layers,
        **(unverified if main.parity is None else _figures(main.parity, config.problem_type)),
    }
    for other in others:
        figures = _figures(other.section().parity, config.problem_type)
        summary |= {f"{other.precision}_{key}": figures[key] for key in _COMPARED if key in figures}
    if layout == "hub" and (notes := hub_layout.notes(tokenizer, source.temperature)):
        summary["note"] = "; ".join(notes)
    return summary


@dataclass(frozen=True)
class _Written:
    """What the manifest says about a graph. reason: why it has no parity: no device here runs it."""

    precision: str
    opset: int
    attention: manifest.Attention
    parity: manifest.Parity | None
    reason: str | None

    def section(self) -> manifest.OtherGraph:
        assert self.parity is not None, "int8 runs on every host"
        about = {"precision": self.precision, "opset": self.opset, "attention": self.attention, "parity": self.parity}
        return manifest.OtherGraph.model_validate(about)


class _Exporter:
    """A checkpoint, and what its graphs are compared with; it writes one after the other."""

    def __init__(self, source: Pretrained, terms: LicenceInfo, allow_unfused: bool, rows: RealRows | None):
        self._source, self._terms, self._allow_unfused, self._rows = source, terms, allow_unfused, rows
        self._model = source.build().eval()
        self._checkpoint = partial(torch_logits, self._model)
        self._typical = source.tokenizer.encode(*zip(*sentences.plain(), strict=True))
        self.reference = reference(self._checkpoint, source.tokenizer)

    def write(self, file: Path, precision: str, layout: str, opset: int) -> _Written:
        """Write the graph into `file`, and compare it with the checkpoint if a device of this host runs it."""
        config, tokenizer = self._source.config, self._source.tokenizer
        graph = EXPORTERS[precision](self._model, self._typical)
        if opset == opset17.OPSET:
            graph = opset17.to_opset_17(graph)
            graphs.check(graph, len(config.labels))
        attention = _attention(fused_attention(graph), config.num_layers, self._allow_unfused)
        add_metadata(graph, _metadata(self._source, precision, self._terms))
        if layout == "hub" and not tokenizer.has_token_types:
            graphs.without_token_types(graph)
        file.parent.mkdir(exist_ok=True)
        onnx.save_model(graph, file)
        device, reason = _parity_device(precision)
        parity = None
        if device is not None:
            session = Session(file, device)
            parity = gate(self._checkpoint, session, self.reference, tokenizer, precision, config.outputs, self._rows)
        return _Written(precision, opset_of(graph), attention, parity, reason)


def _figures(parity: manifest.Parity, problem_type: ProblemType) -> dict[str, Any]:
    """Those that have a meaning for the model's outputs."""
    without = {
        "single_label_classification": {"score_error"},
        "multi_label_classification": {"accuracy", "labelled_rows"},
        "regression": {"accuracy", "labelled_rows", "label_flips", "label_flips_allowed"},
    }
    return parity.model_dump(exclude=without[problem_type])


def _check_arguments(source: Pretrained, precision: str, layout: str, opset: int) -> None:
    for option, found, known in (
        ("--precision", precision, EXPORTERS),
        ("--layout", layout, LAYOUTS),
        ("--opset", opset, OPSETS),
    ):
        if found not in known:
            raise InputError(option, found=repr(found), expected=" or ".join(map(str, known)))
    if opset == opset17.OPSET and precision == "fp16":
        raise InputError(
            "--opset", found=f"{opset} and --precision fp16", expected="fp32 or int8", do=f"omit --opset {opset}"
        )
    if not source.has_classifier:
        raise InputError(
            "the model has no classifier",
            found="only an encoder",
            expected="a model trained on sentence pairs",
            do="train it first: bertnli train RUN.yaml",
        )
    if layout == "hub":
        hub_layout.check(source.tokenizer, precision)
    if source.tokenizer.settings.hypothesis_only:  # programs that use a bundle without bertnli would give it premises
        raise InputError(
            "the model is a hypothesis-only baseline",
            found="hypothesis_only: true in its config.json",
            expected="a model that reads premises",
            do="evaluate it as it is, with bertnli eval; to export a model, train without data.hypothesis_only",
        )


def _parity_device(precision: str) -> tuple[Device | None, str | None]:
    """The device of this host that the parity gate runs on; or None, and the reason."""
    if "cpu" in bundle.DEVICE_KINDS[precision]:
        return CPU, None
    try:
        chosen = choose_device("auto")
        if chosen.kind == "cuda":
            return chosen, None
    except InputError as error:
        return None, str(error)
    return None, "no NVIDIA GPU that this process may use"


def _attention(operators: dict[str, int], layers: int, allow_unfused: bool) -> manifest.Attention:
    fused = sum(operators.values())
    if fused < layers and not allow_unfused:
        raise RunError(
            "the exported graph's attention is not fused",
            found=f"{fused} fused operators",
            expected=f"{layers}, one for each layer",
            do="install the versions in constraints.txt, or accept a slower bundle with --allow-unfused",
        )
    return manifest.Attention(fused=fused, layers=layers, operators=operators)


def _metadata(source: Pretrained, precision: str, terms: LicenceInfo) -> dict[str, str]:
    """For the graph's own metadata: entries of the manifest, in case the file is separated from it."""
    tokenizer = source.tokenizer
    about = {
        "versions": manifest.versions(_VERSIONS),
        "labels": source.config.labels,
        "problem_type": source.config.problem_type,
        "activation": source.config.output_activation,
        "max_length": tokenizer.max_length,
        "truncation": tokenizer.settings.truncation,
        "lower_case": tokenizer.lower_case,
        "precision": precision,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "source_sha256": source.sha256,
        **{key: value for key, value in asdict(terms).items() if value is not None},
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
