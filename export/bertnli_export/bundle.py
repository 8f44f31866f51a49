"""A bundle: the folder that holds a classifier ready to score, and everything needed to trust it.

    model.onnx              the graph with its weights
    tokenizer.json          text to ids
    tokenizer_config.json   how transformers has to read tokenizer.json; not with d2l's vocabulary
    config.json             label names and tokenizer settings, in the form of a Hugging Face config
    parity.npz              a few tokenised pairs and the logits that the checkpoint gives them
    manifest.json           what it is and came from, its parity figures, and the SHA-256 and size of every other file

optimum's `ORTModelForSequenceClassification` opens that folder as it is. With `--layout triton` it is a model of
Triton's (triton.py), the graph in `1/`.

It is written aside and appears in one rename, so a bundle that is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import digest, new_folder, write_text
from bertnli.common.installed import __version__, installed
from bertnli.data import labels as label_orders
from bertnli.data.formats import reason_of
from bertnli.data.tokenizer import PairTokenizer
from bertnli_export.devices import Device

FORMAT, FORMAT_VERSION = "bertnli-bundle", 2
MODEL, TOKENIZER, CONFIG, PARITY, MANIFEST = (
    "model.onnx",
    "tokenizer.json",
    "config.json",
    "parity.npz",
    "manifest.json",
)

# The kinds of device that each precision's graph runs on. The packed attention of fp16 has a kernel for CUDA only. int8
# products are for the CPU: CUDA runs them as well, but slowly.
DEVICE_KINDS: dict[str, tuple[str, ...]] = {"fp32": ("cpu", "cuda"), "fp16": ("cuda",), "int8": ("cpu",)}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Part):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Attention(_Part):
    """The attention operators counted in the graph."""

    fused: int = Field(ge=0)
    layers: int = Field(ge=1)
    operators: dict[str, int]  # "Attention": 6; one of another domain as "com.microsoft::MultiHeadAttention"


class Origin(_Part):
    """The checkpoint the bundle was made from."""

    sha256: str  # of its weights file
    name: str | None = None
    family: str  # bert or d2l
    licence: str | None = None
    disclosure: str | None = None


class Parity(_Part):
    """How far the bundle's logits are from the checkpoint's in fp32, on the host that made it or first verified it."""

    pairs: int
    batch_sizes: list[int]
    lengths: tuple[int, int]  # shortest and longest pair, in tokens
    max_logit_difference: float
    max_company_difference: float  # of a pair's logits alone from those in a batch with others
    label_flips: int
    max_logit_difference_allowed: float | None
    label_flips_allowed: float  # as a share of the real rows
    device: str
    data: str | None = None  # the file the real rows came from
    accuracy: dict[str, float] | None = None  # "checkpoint", "bundle"; over the labelled rows of the data
    labelled_rows: int = 0


class Manifest(_Part):
    format: Literal["bertnli-bundle"] = "bertnli-bundle"
    format_version: int
    precision: Literal["fp32", "fp16", "int8"]
    opset: int
    labels: tuple[str, ...]
    max_length: int
    truncation: str
    lower_case: bool
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # the logits are divided by it for the softmax
    tokenizer_fingerprint: str
    attention: Attention
    origin: Origin
    parity: Parity | None  # None: could not be run where the bundle was made, nor has been since
    versions: dict[str, str]
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, whose files are all there with their right sizes; `check_files` compares the content too."""

    path: Path
    manifest: Manifest
    sha256: str  # of manifest.json, which holds the other files' checksums: it stands for the whole bundle

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, unverified: bool = False) -> Bundle:
        """Raises InputError if there is no bundle at `path`, it is damaged or may not be read, or another bertnli
        wrote it; and if its parity was never checked, unless `unverified` is given."""
        path = Path(path)
        where = path / MANIFEST
        with _reading(path):
            try:
                raw = where.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                raise InputError(
                    f"{path}: not a bundle",
                    found=_what_is_at(path),
                    expected=f"a folder with {MANIFEST}",
                    do="make one: bertnli export MODEL OUT",
                ) from None
            manifest = _parse_manifest(raw, where)
            for name, entry in manifest.files.items():
                size = (path / name).stat().st_size if (path / name).is_file() else None
                if size != entry.size:
                    found = "no such file" if size is None else f"{size:,} bytes"
                    raise _damaged(path / name, found, f"{entry.size:,} bytes")
        if manifest.parity is None and not unverified:
            raise InputError(
                f"{path}: was not yet compared with its checkpoint, as the host that made it could not run it",
                found="parity: null in its manifest",
                do=f"on a host with an NVIDIA GPU: bertnli verify {path}",
            )
        return cls(path, manifest, hashlib.sha256(raw).hexdigest())

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the logits."""
        return self.manifest.labels

    @property
    def model(self) -> Path:
        """The graph with its weights."""
        return self.file(MODEL)

    def file(self, name: str) -> Path:
        """The bundle's file of that name, in whichever folder of it the layout puts it."""
        return self.path / next(path for path in self.manifest.files if Path(path).name == name)

    def check_files(self) -> None:
        """Compare every file's SHA-256 with the manifest's; InputError names the first that differs or is not read."""
        for name, entry in self.manifest.files.items():
            with _reading(self.path / name):
                found = digest(self.path / name)
            if found != entry.sha256:
                raise _damaged(self.path / name, f"SHA-256 {found}", entry.sha256)

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
        """Raises InputError if it is not the one the model was exported with."""
        tokenizer = PairTokenizer.from_folder(self.path)
        if tokenizer.fingerprint != self.manifest.tokenizer_fingerprint:
            raise InputError(
                f"{self.path}: its tokenizer gives other ids than the one it was exported with",
                found=f"fingerprint {tokenizer.fingerprint}",
                expected=self.manifest.tokenizer_fingerprint,
                do="export it again, or install the versions that its manifest.json names",
            )
        return tokenizer


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns the system's refusal to read into InputError. `path`: for an error that does not say which file."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or path}: cannot be read ({reason_of(error)})", do="make it readable"
        ) from None


def _parse_manifest(raw: bytes, where: Path) -> Manifest:
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
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "content"
        found = repr(problem["input"])[:60]
        raise InputError(f"{where}: key {key}", found=found, expected=problem["msg"].lower()) from None
    label_orders.check_names(manifest.labels, f"{where}: key labels")
    missing = {MODEL, TOKENIZER, CONFIG, PARITY} - {Path(name).name for name in manifest.files}
    strange = [name for name in manifest.files if Path(name).is_absolute() or ".." in Path(name).parts]
    if missing or strange:
        found = ", ".join(strange) or f"no {', '.join(sorted(missing))}"
        raise InputError(f"{where}: key files", found=found, do="export the model again")
    return manifest


def _damaged(file: Path, found: str, expected: str) -> InputError:
    return InputError(
        f"{file}: not the file that was exported",
        found=found,
        expected=expected,
        do="copy the bundle again, or export it again",
    )


def _what_is_at(path: Path) -> str:
    if not path.is_dir():
        return "a file" if path.exists() else "nothing there"
    return ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "an empty folder"


# ---------------------------------------------------------------------------------------------------------- writing


@contextmanager
def written(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A new folder beside `out`, which takes its place if the block ends well and is removed if it does not.

    The block fills it and calls `seal` last. Raises InputError if `out` is there and not empty, unless it is a bundle
    and `force` is given: then it is replaced.
    """
    out = out.resolve()
    check_out(out, force=force)
    with new_folder(out, replace=force, unique=True) as folder:
        yield folder
        check_out(out, force=force)  # another process may have put something there meanwhile


def check_out(out: Path, *, force: bool = False) -> None:
    """Raise InputError if a bundle cannot be written to `out`; called before the work starts."""
    folder = out.resolve().parent  # where it is written aside
    there = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise InputError(
            f"{out}: cannot be written",
            found=f"{there}, " + ("which may not be written to" if there.is_dir() else "a file"),
            do="give another OUT",
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        content = json.loads((out / MANIFEST).read_bytes())
        is_bundle = isinstance(content, dict) and content.get("format") == FORMAT
    except (OSError, ValueError, RecursionError):
        is_bundle = False
    if is_bundle and force:
        return
    raise InputError(
        f"{out}: is there already",
        found=_what_is_at(out),
        expected="a new or an empty folder",
        do="choose another, or replace the bundle with --force" if is_bundle else "choose another",
    )


def seal(folder: Path, **about: Any) -> Manifest:
    """Write manifest.json over the files in `folder`. `about`: the manifest's other fields."""
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=digest(path), size=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = Manifest(format_version=FORMAT_VERSION, files=files, **about)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def update_manifest(path: Path, **about: Any) -> None:
    """Change these fields of the manifest of the bundle at `path`; its other files stay as they are.

    Raises InputError if there is no such manifest, RunError if it cannot be written.
    """
    where = path / MANIFEST
    with _reading(where):
        manifest = _parse_manifest(where.read_bytes(), where)
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
