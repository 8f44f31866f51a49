"""The licence of a model, and the disclosure about its training data, wherever they are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bertnli.common.errors import InputError
from bertnli.common.files import existing_path, read_map
from bertnli.fetch import catalog
from bertnli.fetch.cache import RECEIPT, folder_of
from bertnli.fetch.entry import Kind
from bertnli.run.folder import run_of
from bertnli.run.run_file import load_run


@dataclass(frozen=True)
class LicenceInfo:
    """A licence, and a disclosure about the training data; None if not known."""

    licence: str | None = None
    disclosure: str | None = None


UNKNOWN = LicenceInfo()


def of_model(model: str) -> LicenceInfo:
    """Of a model: the path of a model folder, a run or a bundle, or a name of `bertnli fetch`.

    Raises InputError if a file in the folder is damaged.
    """
    path = existing_path(model)
    if path is not None:
        run = run_of(path)
        return _of_folder(path) if run is None else of_model(load_run(run.run_file).model)
    entry = catalog.lookup(model)
    if entry is None or entry.kind != "model":
        return UNKNOWN
    if entry.licence == catalog.AS_ITS_CARD_SAYS:
        return LicenceInfo(_of_folder(folder_of(entry)).licence or entry.licence)
    return LicenceInfo(entry.licence, entry.disclosure)


def _of_folder(folder: Path) -> LicenceInfo:
    """From config.json (written by training), manifest.json (export), the receipt (fetch), or else the model card."""
    noted = read_map(folder / RECEIPT)
    for file, key in (("manifest.json", "origin"), ("config.json", "bertnli")):
        section = read_map(folder / file).get(key)
        noted |= section if isinstance(section, dict) else {}
    licence, disclosure = noted.get("licence"), noted.get("disclosure")
    if not isinstance(licence, str | None) or not isinstance(disclosure, str | None):
        raise InputError(f"{folder}: licence and disclosure", found=f"{licence!r}, {disclosure!r}", expected="texts")
    if licence in (None, catalog.AS_ITS_CARD_SAYS):
        licence = _on_card(folder / "README.md")
    return LicenceInfo(licence, disclosure)


def _on_card(card: Path) -> str | None:
    """The licence in the front matter of a model card, as an id of the hub (apache-2.0)."""
    if not card.is_file():
        return None
    from huggingface_hub import metadata_load

    try:
        front = metadata_load(card) or {}
    except Exception:  # a README may contain anything; if its front matter cannot be read, it states no licence
        return None
    stated = front.get("license_name") if front.get("license") == "other" else front.get("license")
    names = stated if isinstance(stated, list) else [stated]
    return ", ".join(name for name in names if isinstance(name, str)) or None


def notes_about(model: str, data: Sequence[str]) -> list[str]:
    """Sentences with the licences of a model and of data sets, and with their disclosures."""
    notes = []
    named: list[tuple[str, Kind]] = [(model, "model"), *((name, "dataset") for name in dict.fromkeys(data))]
    for name, kind in named:
        entry = catalog.lookup_unless_path(name, kind)
        known = of_model(name) if kind == "model" else LicenceInfo(entry.licence if entry else None)
        if known.licence is None:
            notes.append(f"{name}: its licence is not recorded; ask its author.")
        else:
            notes.append(f"{name}: {f'{entry.about}. ' if entry else ''}Licence: {known.licence}.")
        if known.disclosure:
            notes.append(known.disclosure)
    return notes
