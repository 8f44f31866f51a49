"""The temperature of a model folder: a key of its config.json, and a section of its card. calibrate.py fits it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import existing_path, read_map, write_text


def of_config(config: Mapping[str, Any], where: str) -> float:
    """The temperature in a folder's config.json, 1 without one. Raises InputError for one that is no number above 0."""
    section = config.get("bertnli")
    found = section.get("temperature", 1.0) if isinstance(section, dict) else 1.0
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
        raise InputError(f"{where}: key bertnli.temperature", found=repr(found), expected="a number above 0")
    return float(found)


def check_folder(model: str) -> Path:
    """The folder that a person named, if a temperature can be kept in it; called before the work starts.

    Raises InputError for a fetched name, which the cache holds for everybody, and for d2l's own folders and zips.
    """
    folder = existing_path(model)
    if folder is not None and (folder / "config.json").is_file():
        check_writable(folder)
        try:
            _card(folder)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{folder / 'README.md'}, byte {error.start + 1}: not UTF-8",
                expected="a model card, which the temperature is noted in",
                do="save it as UTF-8",
            ) from None
        return folder
    if folder is not None:
        found, do = "no config.json in it", f"export it and calibrate the bundle: bertnli export {model} OUT"
    else:
        found, do = "a fetched model", f"copy it: bertnli fetch {model} --to DIR"
    raise InputError(f"--calibrate: {model} cannot keep a temperature", found=found, expected="a model folder", do=do)


def check_writable(folder: Path) -> None:
    """Raises InputError if nothing can be written into a folder that is to keep a temperature."""
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"--calibrate: {folder} cannot keep a temperature",
            found="a folder that may not be written into",
            do="copy it, and calibrate the copy",
        )


def keep(folder: Path, found: Calibration) -> None:
    """Write the temperature into config.json under `bertnli`, which transformers passes over, and say so in the model
    card, if there is one. Raises RunError if the disk does not take it."""
    config = folder / "config.json"
    content = read_map(config)
    content["bertnli"] = {**content.get("bertnli", {}), "temperature": found.temperature}
    try:
        card = _card(folder)  # before anything is written: the two say the same
        write_text(config, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        if card is not None:
            write_text(folder / "README.md", _with_section(card, found))
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"{folder}: the temperature cannot be kept: {error}", do="make room, and calibrate again"
        ) from None


def _card(folder: Path) -> str | None:
    path = folder / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _with_section(card: str, found: Calibration) -> str:
    # Ours alone is replaced: a section of that name may be somebody's own.
    kept = re.sub(r"\n## Calibration\n\nDivide the logits by .*?(?=\n## |\Z)", "", card, flags=re.DOTALL).rstrip("\n")
    return f"""{kept}

## Calibration

Divide the logits by {found.temperature:.4g} before the softmax, and the probabilities say how often the model is right
(temperature scaling, Guo et al. 2017; fitted on {found.rows:,} held-out rows, whose mean log loss fell from
{found.loss_without:.3f} to {found.loss:.3f}). The predicted label is the same. bertnli does it by itself, in what it
exports too: `bertnli.temperature` in config.json. Other libraries pass over that key, and give undivided probabilities.
"""


@dataclass(frozen=True)
class Calibration:
    """A temperature, and the mean log loss on the rows it was fitted on: with it, and of the logits as they are."""

    data: str
    rows: int
    temperature: float
    loss: float
    loss_without: float
