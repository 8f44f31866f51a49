"""Stores the temperature of a model folder: as a key in config.json and as a section of the model card."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import existing_path, read_map, write_text

LEAST, MOST = 1e-3, 1e3  # ten times what a fit may give: with others the probabilities mean nothing


def of_config(config: Mapping[str, Any], where: str, *, has_meaning: bool = True) -> float:
    """The temperature in a config.json; 1 if it has none. Raises InputError for one not from LEAST to MOST.

    has_meaning: false if the model's scores are no probabilities; then any other than 1 is an error.
    """
    section = config.get("bertnli")
    found = section.get("temperature", 1.0) if isinstance(section, dict) else 1.0
    if isinstance(found, bool) or not isinstance(found, int | float) or not LEAST <= found <= MOST:
        expected = f"a number from {LEAST:g} to {MOST:g}"
        raise InputError(f"{where}: key bertnli.temperature", found=repr(found)[:80], expected=expected)
    if found != 1 and not has_meaning:
        expected, do = "none: the model's scores are no probabilities", "remove the key"
        raise InputError(f"{where}: key bertnli.temperature", found=str(found), expected=expected, do=do)
    return float(found)


def check_folder(model: str) -> Path:
    """The folder that the user named, if a temperature can be stored in it. Call it before the work starts.

    Raises InputError for a fetched name, because the cache is shared, and for d2l's own folders and zips.
    """
    folder = existing_path(model)
    if folder is not None and (folder / "config.json").is_file():
        check_writable(folder)
        try:
            _card(folder)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{folder / 'README.md'}, byte {error.start + 1}: not UTF-8",
                expected="a model card in UTF-8, for the note about the temperature",
                do="save it as UTF-8",
            ) from None
        return folder
    if folder is not None:
        found, do = "no config.json in it", f"export it and calibrate the bundle: bertnli export {model} OUT"
    else:
        found, do = "a fetched model", f"copy it: bertnli fetch {model} --to DIR"
    raise InputError(
        f"--calibrate: a temperature cannot be stored in {model}", found=found, expected="a model folder", do=do
    )


def check_writable(folder: Path) -> None:
    """Raise InputError if the process may not write into the folder."""
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"--calibrate: a temperature cannot be stored in {folder}",
            found="a folder without write permission",
            do="copy it, and calibrate the copy",
        )


def store(folder: Path, found: Calibration) -> None:
    """Write the temperature into config.json under the key `bertnli`, which transformers ignores, and into the model
    card, if there is one. Raises RunError if it cannot be written."""
    config = folder / "config.json"
    content = read_map(config)
    content["bertnli"] = {**content.get("bertnli", {}), "temperature": found.temperature}
    try:
        card = _card(folder)  # before anything is written, because both files must agree
        write_text(config, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        if card is not None:
            write_text(folder / "README.md", _with_section(card, found))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"{folder}: the temperature cannot be stored: {error}", do="free space, then calibrate again"
        ) from None


def _card(folder: Path) -> str | None:
    path = folder / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _with_section(card: str, found: Calibration) -> str:
    # Only our own section is replaced: another author may have written one with the same title.
    kept = re.sub(r"\n## Calibration\n\nDivide the logits by .*?(?=\n## |\Z)", "", card, flags=re.DOTALL).rstrip("\n")
    return f"""{kept}

## Calibration

Divide the logits by {found.temperature:.4g} before the softmax or sigmoid; then a probability says how often the model
is right (temperature scaling, Guo et al. 2017; fitted on {found.rows:,} held-out rows, whose mean log loss changed from
{found.loss_without:.3f} to {found.loss:.3f}). The predicted label does not change. bertnli reads it from the key
`bertnli.temperature` in config.json and applies it, also in exported bundles. Other libraries ignore that key.
"""


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature, and the mean log loss on the rows that it was fitted on, with it and without it."""

    data: str
    rows: int
    temperature: float
    loss: float
    loss_without: float
