"""manifest.json of a bundle: its keys, how it is read and written, and the names of the files that it describes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertnli.common.errors import InputError, RunError, first_line
from bertnli.common.files import digest, kind_of, write_text
from bertnli.common.installed import __version__, installed
from bertnli.common.temperature import LEAST, MOST
from bertnli.data.labels import check_names
from bertnli.data.outputs import Activation, Outputs, ProblemType, contradiction
from bertnli.data.tokenizer import MIN_LENGTH
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


@contextmanager
def reading(path: Path) -> Iterator[None]:
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
    with reading(where):
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
