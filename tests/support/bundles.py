"""What tests of bundles share: the tiny bundle's graph, changes to a bundle's files, rows to verify with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from bertnli_export.interface import SATURATION_CHECK
from bertnli_export.parity import Reference

from bertnli.common.files import digest
from bertnli.data import output_config
from bertnli.data.outputs import Outputs
from bertnli.evaluation.data_sets import LabelledSet, open_set
from tests.support import tiny


def tiny_graph(*_: object) -> onnx.ModelProto:
    """The graph of `tiny.bundle()` as its exporter gave it, so that a test of what comes after needs no export."""
    return without_metadata(tiny.bundle() / "model.onnx")


def without_metadata(file: Path) -> onnx.ModelProto:
    """A bundle's graph as its exporter gave it."""
    graph = onnx.load(file)
    own = [entry for entry in graph.metadata_props if entry.key == f"bertnli.{SATURATION_CHECK}"]
    del graph.metadata_props[:]
    graph.metadata_props.extend(own)
    return graph


def edit_manifest(bundle: Path, change: Callable[[dict], object]) -> None:
    file = bundle / "manifest.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_config(bundle: Path, change: Callable[[dict], object]) -> None:
    """Change config.json, and its checksum in the manifest."""
    file = bundle / "config.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    note_new_content(bundle, file.name)


def edit_graph(bundle: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Change the graph, and its checksum in the manifest."""
    graph = onnx.load(bundle / "model.onnx")
    change(graph)
    (bundle / "model.onnx").write_bytes(graph.SerializeToString())
    note_new_content(bundle, "model.onnx")


def note_new_content(bundle: Path, name: str) -> None:
    """Make the manifest agree with a changed file."""
    file = bundle / name
    entry = {"sha256": digest(file), "size": file.stat().st_size}
    edit_manifest(bundle, lambda content: content["files"].update({name: entry}))


def rows_file(folder: Path, rows: list[dict[str, str]]) -> LabelledSet:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_set(str(file))


def with_outputs(folder: Path, outputs: Outputs) -> Path:
    """The tiny bundle in `folder`, with other outputs: its first logits, which mean what `outputs` say."""
    shutil.copytree(tiny.bundle(), folder)
    names = list(outputs.names)
    about = {"labels": json.dumps(names), "problem_type": outputs.problem_type, "activation": outputs.activation}

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            node.output[:] = ["all logits" if name == "logits" else name for name in node.output]
        graph.initializer.append(onnx.numpy_helper.from_array(np.arange(len(names)), "kept"))
        graph.node.append(onnx.helper.make_node("Gather", ["all logits", "kept"], ["logits"], axis=1))
        graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(names)
        for entry in model.metadata_props:
            entry.value = about.get(entry.key.removeprefix("bertnli."), entry.value)

    edit_graph(folder, change)
    edit_config(folder, lambda content: content.update(output_config.entries(outputs)))
    known = Reference.load(folder / "parity.npz")
    replace(known, logits=known.logits[:, : len(names)]).save(folder / "parity.npz")
    note_new_content(folder, "parity.npz")
    edit_manifest(folder, lambda content: content.update(about, labels=names))
    return folder
