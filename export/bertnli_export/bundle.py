"""A bundle: the folder that holds a classifier ready to score, and what is needed to check it.

    model.onnx              the graph with its weights
    tokenizer.json          text to ids
    tokenizer_config.json   how transformers has to read tokenizer.json; absent with d2l's vocabulary
    config.json             label names and tokenizer settings, in the form of a Hugging Face config
    parity.npz              tokenised pairs and the logits that the checkpoint gives them
    manifest.json           what the bundle is and comes from, its parity figures, SHA-256 and size of the other files

optimum's `ORTModelForSequenceClassification` opens this folder without changes. With `--layout triton` it is a model of
Triton Inference Server (triton.py), with the graph in `1/`; with `--layout hub` a model as others publish it
(hub_layout.py), with the graph and another one in int8 in `onnx/`.

A bundle is written to a temporary folder and renamed, so a bundle that exists is complete.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertnli.common import rust
from bertnli.common.errors import InputError
from bertnli.common.files import digest, kind_of, read_map
from bertnli.data.output_config import meaning
from bertnli.data.outputs import Outputs
from bertnli.data.tokenizer import PairTokenizer
from bertnli_export.devices import Device
from bertnli_export.manifest import (
    CONFIG,
    LABELS,
    MANIFEST,
    MODEL,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Manifest,
    manifest_bytes,
    parse_manifest,
    reading,
)

# The kinds of device that each precision's graph runs on. The packed attention of fp16 has a kernel for CUDA only. int8
# products are for the CPU: CUDA runs them as well, but slowly.
DEVICE_KINDS: dict[str, tuple[str, ...]] = {"fp32": ("cpu", "cuda"), "fp16": ("cuda",), "int8": ("cpu",)}


# What a folder may hold beside the files of its manifest: hidden ones (.gitattributes, .cache), and a description.
_DESCRIPTIONS = ("README", "LICENSE", "LICENCE", "NOTICE")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, whose files exist with the sizes in its manifest; `check_files` compares the content too."""

    path: Path
    manifest: Manifest
    sha256: str  # of manifest.json, which holds the checksums of the other files: it identifies the bundle
    graph: str = MODEL  # the name of the file that is run; of another graph than MODEL, sha256 is of its name, too

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, unverified: bool = False) -> Bundle:
        """path: the bundle's folder, or one of its graphs: in the hub's layout there are two.

        Raises InputError if there is no bundle at `path`, if it is damaged, cannot be read or has other files than its
        manifest, if another version of bertnli wrote it, and if its parity was never checked, unless `unverified` is
        given."""
        given = Path(path)
        path, graph = folder_and_graph(given)
        where = path / MANIFEST
        with reading(path):
            if kind_of(where) is None:
                raise InputError(
                    f"{path}: not a bundle",
                    found=contents(path),
                    expected=f"a folder with {MANIFEST}",
                    do="make one: bertnli export MODEL OUT",
                )
            raw = manifest_bytes(where)
            manifest = parse_manifest(raw, where)
            for name, entry in manifest.files.items():
                found = kind_of(path / name) or "no such file"
                if found == "a file":
                    found = f"{(path / name).stat().st_size:,} bytes"
                if found != f"{entry.size:,} bytes":
                    raise _damaged(path / name, found, f"{entry.size:,} bytes")
            _check_nothing_else(path, manifest)
        manifest = manifest.about_graph(graph, given)
        if manifest.parity is None and not unverified:
            raise InputError(
                f"{path}: was never compared with its checkpoint, because the host that made it could not run it",
                found="parity: null in its manifest",
                do=f"on a host with an NVIDIA GPU: bertnli verify {path}",
            )
        identity = raw if graph == MODEL else raw + graph.encode()
        return cls(path, manifest, hashlib.sha256(identity).hexdigest(), graph)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the logits."""
        return self.manifest.labels

    @property
    def outputs(self) -> Outputs:
        """What the logits mean."""
        return self.manifest.outputs

    @property
    def model(self) -> Path:
        """The graph with its weights."""
        return self.file(self.graph)

    @property
    def place(self) -> Path:
        """What `open` opens again: the folder, or the graph if it is not the folder's first."""
        return self.path if self.graph == MODEL else self.model

    def file(self, name: str) -> Path:
        """The bundle's file of that name, in whichever of its folders it is."""
        return self.path / next(path for path in self.manifest.files if Path(path).name == name)

    def check_files(self) -> None:
        """Compare every file's SHA-256 with the manifest's. Raises InputError for the first that differs."""
        for name, entry in self.manifest.files.items():
            with reading(self.path / name):
                found = digest(self.path / name)
            if found != entry.sha256:
                raise _damaged(self.path / name, f"SHA-256 {found}", entry.sha256)

    def check_config(self) -> None:
        """Raise InputError unless config.json and Triton's labels.txt, which other programs read, name the manifest's
        labels and say what the outputs mean as it does, and tokenizer_config.json names no code for transformers."""
        where = self.file(CONFIG)
        config, indices = read_map(where), range(len(self.labels))
        compared = [
            (f"{where}: key id2label", config.get("id2label"), dict(zip(map(str, indices), self.labels, strict=True))),
            (f"{where}: key label2id", config.get("label2id"), dict(zip(self.labels, indices, strict=True))),
        ]
        said = meaning(config, len(self.labels), str(where))[:2]
        known = self.outputs.problem_type, self.outputs.activation
        if said != known:
            raise InputError(
                f"{where}: another meaning of the outputs than in {MANIFEST}",
                found=" with ".join(said),
                expected=" with ".join(known),
                do="do not use the bundle; export the model again",
            )
        for name in self.manifest.files:
            if Path(name).name == LABELS:
                text = (self.path / name).read_text(encoding="utf-8", errors="replace")
                compared.append((str(self.path / name), text.splitlines(), list(self.labels)))
        for place, found, expected in compared:
            if found != expected and not (found is None and "label2id" in place):
                raise InputError(
                    f"{place}: other labels, or another order, than in {MANIFEST}",
                    found=_in_words(found),
                    expected=_in_words(expected),
                    do="do not use the bundle; export the model again",
                )
        where = self.path / TOKENIZER_CONFIG
        if code := read_map(where).get("auto_map"):
            raise InputError(
                f"{where}: key auto_map", found=f"code, {code}", do="do not use the bundle; export the model again"
            )

    def check_device(self, device: Device) -> None:
        """Raise InputError if its precision does not run on `device`."""
        precision = self.manifest.precision
        if device.kind in DEVICE_KINDS[precision]:
            return
        if device.kind == "cpu":
            wanted, do = "a GPU", "use a host with an NVIDIA GPU; for the CPU export it with --precision fp32 or int8"
        else:
            wanted, do = "the CPU", "choose it with --device cpu; for the GPU export it with --precision fp16"
        raise InputError(
            f"{self.path}: is {precision}, which is not for this device", found=device.kind, expected=wanted, do=do
        )

    def tokenizer(self) -> PairTokenizer:
        """Raises InputError if it is damaged, is not what the manifest says, or gives other ids than the one that the
        model was exported with."""
        try:
            return rust.call(self._tokenizer)
        except rust.PanicError as error:
            file = self.file(TOKENIZER)
            raise InputError(f"{file}: damaged", found=str(error), do="export the model again") from None

    def _tokenizer(self) -> PairTokenizer:
        tokenizer = PairTokenizer.from_folder(self.path)
        for key, found in (
            ("max_length", tokenizer.max_length),
            ("truncation", tokenizer.settings.truncation),
            ("lower_case", tokenizer.lower_case),
        ):
            if found != getattr(self.manifest, key):
                raise InputError(
                    f"{self.path / MANIFEST}: key {key}",
                    found=str(getattr(self.manifest, key)),
                    expected=f"{found}, as the other files have it",
                    do="export the model again",
                )
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            raise InputError(
                f"{self.path}: its tokenizer gives other ids than the one it was exported with",
                found=f"fingerprint {tokenizer.fingerprint}",
                expected=self.manifest.tokenizer_fingerprint,
                do="export it again, or install the versions that its manifest.json names",
            )
        return tokenizer


def folder_and_graph(path: Path) -> tuple[Path, str]:
    """The folder of the bundle that a user names by it or by one of its graphs, and the graph's name."""
    if path.suffix == ".onnx" and path.is_file():
        for folder in path.absolute().parents[:2]:
            if os.path.lexists(folder / MANIFEST):
                return folder, path.name
    return path, MODEL


def _check_nothing_else(path: Path, manifest: Manifest) -> None:
    """Raise InputError if the folder has files that are not in its manifest: programs that open it might read them."""
    known = {Path(name) for name in (*manifest.files, MANIFEST)}
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            file = (Path(folder) / name).relative_to(path)
            described = len(file.parts) == 1 and file.stem.upper() in _DESCRIPTIONS
            if file not in known and not described and not name.startswith("."):
                raise InputError(
                    f"{path / file}: a file that the bundle's {MANIFEST} does not name",
                    do="move it out of the bundle, or copy the bundle again",
                )


def _damaged(file: Path, found: str, expected: str) -> InputError:
    return InputError(
        f"{file}: not the file that was exported",
        found=found,
        expected=expected,
        do="copy the bundle again, or export it again",
    )


def _in_words(labels: Any) -> str:
    if isinstance(labels, dict):
        return ", ".join(f"{key}: {value}" for key, value in labels.items())
    return ", ".join(map(str, labels)) if isinstance(labels, list) else repr(labels)


def contents(path: Path) -> str:
    """What is at a path, for messages."""
    if not path.is_dir():
        return "a file" if path.exists() else "nothing there"
    return ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "an empty folder"
