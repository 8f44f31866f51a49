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
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertnli.common import rust
from bertnli.common.errors import InputError, RunError, first_line
from bertnli.common.files import digest, kind_of, new_folder, read_map, write_text
from bertnli.common.installed import __version__, installed
from bertnli.common.temperature import LEAST, MOST
from bertnli.data.labels import check_names
from bertnli.data.output_config import meaning
from bertnli.data.outputs import Activation, Outputs, ProblemType, contradiction
from bertnli.data.tokenizer import MIN_LENGTH, PairTokenizer
from bertnli_export.devices import Device
from bertnli_export.runtime import OLDEST

FORMAT, FORMAT_VERSION = "bertnli-bundle", 2
MODEL, TOKENIZER, CONFIG, PARITY, MANIFEST = (
    "model.onnx",
    "tokenizer.json",
    "config.json",
    "parity.npz",
    "manifest.json",
)
TOKENIZER_CONFIG = "tokenizer_config.json"
QUANTIZED = "model_quantized.onnx"  # of the hub's layout
LABELS = "labels.txt"  # of Triton's layout

# The kinds of device that each precision's graph runs on. The packed attention of fp16 has a kernel for CUDA only. int8
# products are for the CPU: CUDA runs them as well, but slowly.
DEVICE_KINDS: dict[str, tuple[str, ...]] = {"fp32": ("cpu", "cuda"), "fp16": ("cuda",), "int8": ("cpu",)}


# What a folder may hold beside the files of its manifest: hidden ones (.gitattributes, .cache), and a description.
_DESCRIPTIONS = ("README", "LICENSE", "LICENCE", "NOTICE")

Precision = Literal["fp32", "fp16", "int8"]
_Opset = Annotated[int, Field(ge=1, le=1000)]
_Count = Annotated[int, Field(ge=0, le=10**9)]
_Difference = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_LARGEST_MANIFEST = 1 << 24  # bytes
# In bytes: protobuf's limit, and far more than is ever needed.
_LARGEST = {MODEL: 2**31, QUANTIZED: 2**31, TOKENIZER: 2**28, PARITY: 2**26}
_LARGEST_OTHER = 2**24


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileEntry(_Section):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Attention(_Section):
    """The attention operators counted in the graph."""

    fused: _Count
    layers: int = Field(ge=1, le=10_000)
    operators: dict[str, _Count]  # "Attention": 6; one of another domain as "com.microsoft::MultiHeadAttention"


class Origin(_Section):
    """The checkpoint the bundle was made from."""

    sha256: str  # of its weights file
    name: str | None = None
    revision: str | None = None  # its commit on the model hub, if it was fetched from there
    family: str  # its name in families/table.py
    licence: str | None = None
    disclosure: str | None = None


class Parity(_Section):
    """How far the bundle's logits are from the checkpoint's in fp32, on the host that made it or first verified it."""

    pairs: _Count
    batch_sizes: list[_Count]
    lengths: tuple[_Count, _Count]  # shortest and longest pair, in tokens
    max_logit_difference: _Difference
    max_company_difference: _Difference  # batch invariance: of a pair's logits alone from those in a batch with others
    label_flips: _Count  # of the predicted labels, of each independent one; 0 of a model that gives a score
    max_logit_difference_allowed: _Difference | None
    label_flips_allowed: _Fraction  # of the real rows
    device: str
    data: str | None = None  # the file the real rows came from
    accuracy: dict[str, _Fraction] | None = None  # of "checkpoint" and "bundle", on the labelled rows of the data
    labelled_rows: _Count = 0
    truncated: _Count = 0  # of the real rows: those that are longer than max_length, and were cut
    score_error: _Difference | None = None  # of scores and of independent labels: see `parity.Differences.score_error`


class OtherGraph(_Section):
    """A graph of another precision in the same folder: what differs from the manifest's own."""

    precision: Precision
    opset: _Opset
    attention: Attention
    parity: Parity


class Manifest(_Section):
    format: Literal["bertnli-bundle"] = "bertnli-bundle"
    format_version: int
    precision: Precision
    opset: _Opset
    onnxruntime: str = Field(default=OLDEST, pattern=r"^\d{1,9}(\.\d{1,9}){1,3}$")  # the oldest that may open it
    labels: tuple[str, ...]  # or the name of the score
    problem_type: ProblemType = "single_label_classification"  # this and the next: bundles made before have neither
    activation: Activation = "softmax"
    max_length: int = Field(ge=MIN_LENGTH, le=1_000_000)
    truncation: str
    lower_case: bool
    temperature: float = Field(
        default=1.0, ge=LEAST, le=MOST, allow_inf_nan=False
    )  # divides the logits before the softmax or sigmoid
    tokenizer_fingerprint: str
    attention: Attention
    origin: Origin
    parity: Parity | None  # None: could not be checked where the bundle was made, and was not checked since
    versions: dict[str, str]
    files: dict[str, FileEntry]
    others: dict[Literal["model_quantized.onnx"], OtherGraph] = {}  # in the hub's layout, by their names

    @property
    def outputs(self) -> Outputs:
        return Outputs(self.labels, self.problem_type, self.activation)

    def about_graph(self, name: str, where: Path) -> Manifest:
        """The manifest of the same bundle with this graph. Raises InputError, which names `where`, if it has none."""
        if name == MODEL:
            return self
        other = next((other for known, other in self.others.items() if known == name), None)
        if other is None:
            raise InputError(
                f"{where}: no graph of the bundle around it", found=name, expected=" or ".join((MODEL, *self.others))
            )
        return self.model_copy(update=dict(other))


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
        with _reading(path):
            if kind_of(where) is None:
                raise InputError(
                    f"{path}: not a bundle",
                    found=_contents(path),
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
            with _reading(self.path / name):
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


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Makes an InputError of an error of the system. `path`: for one that does not name its file."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or path}: cannot be read ({first_line(error)})", do="make it readable"
        ) from None


def manifest_bytes(where: Path) -> bytes:
    """Raises InputError for a pipe, which would wait for ever, and for a file that is too large; and OSError."""
    kind = kind_of(where)
    if kind == "a file" and (size := where.stat().st_size) > _LARGEST_MANIFEST:
        kind = f"{size:,} bytes"
    if kind != "a file":
        raise InputError(f"{where}: not a bundle's manifest", found=kind or "nothing there", expected="a small file")
    return where.read_bytes()


def parse_manifest(raw: bytes, where: Path) -> Manifest:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: damaged ({error})", expected="a JSON file", do="export the model again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{where}: not a bundle's manifest", expected=f'"format": "{FORMAT}" in it')
    version = content.get("format_version")
    if isinstance(version, int) and version != FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        raise InputError(
            f"{where}: format_version",
            found=str(version),
            expected=str(FORMAT_VERSION),
            do=f"{'a newer' if newer else 'an older'} bertnli wrote this bundle: "
            + ("update bertnli, or " if newer else "")
            + "export the model again with this one",
        )
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "content"
        found = repr(problem["input"])[:60]
        raise InputError(f"{where}: key {key}"[:200], found=found, expected=problem["msg"].lower()) from None
    if manifest.problem_type != "regression":
        check_names(manifest.labels, f"{where}: key labels", do="export the model again")
    if contradicts := contradiction(manifest.outputs):
        raise InputError(f"{where}: {contradicts}", do="export the model again")
    if manifest.activation == "identity" and manifest.temperature != 1:
        found, expected = str(manifest.temperature), "1: raw scores are no probabilities"
        raise InputError(f"{where}: key temperature", found=found, expected=expected, do="export the model again")
    missing = {MODEL, TOKENIZER, CONFIG, PARITY, *manifest.others} - {Path(name).name for name in manifest.files}
    strange = [
        name
        for name in manifest.files
        if Path(name).is_absolute() or ".." in Path(name).parts or Path(name).as_posix() != name or "\0" in name
    ]
    # A program that opens the bundle might take the other one of two.
    times = Counter(Path(name).name for name in manifest.files)
    strange += [name for name in manifest.files if times[Path(name).name] > 1]
    if missing or strange:
        found = ", ".join(strange[:3]) or f"no {', '.join(sorted(missing))}"
        raise InputError(f"{where}: key files", found=found, do="export the model again")
    for name, entry in manifest.files.items():
        largest = _LARGEST.get(Path(name).name, _LARGEST_OTHER)
        if entry.size > largest:
            found, expected = f"{entry.size:,} bytes", f"{largest:,} at most"
            raise InputError(f"{where}: key files.{name}", found=found, expected=expected, do="export the model again")
    return manifest


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


def _contents(path: Path) -> str:
    if not path.is_dir():
        return "a file" if path.exists() else "nothing there"
    return ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "an empty folder"


# ---------------------------------------------------------------------------------------------------------- writing


@contextmanager
def new_bundle(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder, which is renamed to `out` if the block ends without error, and otherwise removed.

    The block fills it and calls `write_manifest` last. Raises InputError if `out` exists and is not empty. With
    `force`, a bundle at `out` is replaced.
    """
    out = out.resolve()
    check_target(out, force=force)
    with new_folder(out, replace=force, unique=True) as folder:
        yield folder
        check_target(out, force=force)  # another process may have written there in the meantime


def check_target(out: Path, *, force: bool = False) -> None:
    """Raise InputError if a bundle cannot be written to `out`; called before the work starts."""
    check_outside(out)
    folder = out.resolve().parent  # of the temporary folder, too
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise InputError(
            f"{out}: cannot be written",
            found=f"{existing}, " + ("a folder without write permission" if existing.is_dir() else "a file"),
            do="give another OUT",
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    is_bundle = _is_bundle(out)
    if is_bundle and force:
        return
    raise InputError(
        f"{out}: exists already",
        found=_contents(out),
        expected="a new or an empty folder",
        do="choose another, or replace the bundle with --force" if is_bundle else "choose another",
    )


def check_outside(path: Path) -> None:
    """Raise InputError if a file or folder at `path` would be inside a bundle, which would then be refused."""
    for folder in Path(os.path.realpath(path)).parents:
        if _is_bundle(folder):
            raise InputError(
                f"{path}: inside the bundle {folder}",
                expected="a place outside: a bundle may not have other files than its manifest names",
                do="give another path",
            )


def _is_bundle(folder: Path) -> bool:
    try:
        content = json.loads(manifest_bytes(folder / MANIFEST))
    except (OSError, ValueError, RecursionError):  # an InputError is a ValueError
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def write_manifest(folder: Path, **about: Any) -> None:
    """Write manifest.json for the files in `folder`. `about`: its fields other than those of the files."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=digest(path), size=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = Manifest(format_version=FORMAT_VERSION, files=files, **about)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def update_manifest(path: Path, **about: Any) -> None:
    """Change these fields of the manifest of the bundle at `path`; its other files stay as they are.

    Raises InputError if there is no such manifest, RunError if it cannot be written.
    """
    where = path / MANIFEST
    with _reading(where):
        manifest = parse_manifest(manifest_bytes(where), where)
    content = manifest.model_copy(update=about).model_dump(mode="json")
    try:
        write_text(where, _json(content))
    except OSError as error:
        raise RunError(
            f"{where}: cannot be written: {error.strerror or error}", do="make room, and try again"
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(_json(content), encoding="utf-8")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """bertnli's version, and those of the packages that are installed."""
    return {"bertnli": __version__, **installed(packages)}
