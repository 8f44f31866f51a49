"""Fetches a model from the model hub: what says whether it can run first, then only the weights that are read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError
from bertnli.common.files import read_json
from bertnli.common.progress import megabytes, say
from bertnli.fetch import known_folders, known_repositories
from bertnli.fetch.entry import HubModel, SourceError
from bertnli.fetch.hub_repository import Repository, repository

ParseConfig = Callable[[Any, str], object]
"""Takes the content of a config.json, and a name of it for messages. Raises InputError if such a model cannot run."""

_CONFIG = re.compile(r"config\.json|modules\.json|config_sentence_transformers\.json|sentence_bert_config\.json")
_CARD = re.compile(r"README\.md|LICENSE(\.\w+)?")
_TOKENIZER = re.compile(
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)|merges\.txt"
)
_SENTENCEPIECE = re.compile(r"sentencepiece\.bpe\.model|spm\.model|spiece\.model|sentencepiece\.model|tokenizer\.model")
_INDEX = ".index.json"


def about(names: Collection[str]) -> list[str]:
    """Of the file names in a model's folder those that say what kind of model it is."""
    return sorted(name for name in names if _CONFIG.fullmatch(name))


def tokenizer(names: Collection[str]) -> list[str]:
    """Those of its tokenizer. SentencePiece's own file is needed only if there is no tokenizer.json."""
    return [
        name
        for name in names
        if _TOKENIZER.fullmatch(name) or (_SENTENCEPIECE.fullmatch(name) and "tokenizer.json" not in names)
    ]


def weights(names: Collection[str], read_index: Callable[[str], Any]) -> list[str]:
    """The one file that transformers reads, or an index with the files that it names; [] if there is none.

    read_index: gives the JSON value in an index. Raises SourceError for an index without usable names.
    """
    name = next((name for name in known_repositories.WEIGHTS if name in names), None)
    if name is None or not name.endswith(_INDEX):
        return [name] if name else []
    placed = read_index(name)
    placed = placed.get("weight_map") if isinstance(placed, dict) else None
    shards = sorted(set(placed.values())) if isinstance(placed, dict) and all(map(_is_text, placed.values())) else []
    if not shards or not {shard for shard in shards if "/" not in shard} == set(shards) <= set(names):
        lacking = ", ".join(sorted(set(shards) - set(names))[:3])
        raise SourceError(f"{name} names files that are not there: {lacking}" if shards else f"{name} is not an index")
    return [name, *shards]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def copy_model(source: Path, folder: Path) -> None:
    """Copy the files that a loader needs.

    Raises SourceError if `source` has no weights or no config.json, InputError for what known_folders.py recognises.
    """
    known_folders.check(source)
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    chosen = weights(names, lambda index: read_json(source / index))
    if "config.json" not in names or not chosen:
        raise SourceError(
            f"not a model: found {', '.join(names[:8]) or 'neither weights nor config.json'}; "
            "expected config.json and model.safetensors (or pytorch_model.bin)"
        )
    for name in (*about(names), *tokenizer(names), *filter(_CARD.fullmatch, names), *chosen):
        shutil.copyfile(source / name, folder / name)


def download_model(source: HubModel, folder: Path, parse_config: ParseConfig | None = None) -> str:
    """Download the model's files into `folder`, which must exist. Returns their commit.

    First config.json, then the tokenizer, last the weights: a model that cannot run is refused as soon as it is known.
    parse_config: without it, config.json is not checked. Raises InputError if the model cannot run, SourceError if the
    hub does not give the files, OSError if they cannot be written.
    """
    found = repository(source)
    describe(found, folder, parse_config)
    found.get(filter(_CARD.fullmatch, found.files), folder)
    chosen = weights(found.files, lambda index: _read_index(found, index, folder))
    size = found.size(chosen)
    say(f"{source.name}: fetching its weights{f', {megabytes(size)}' if size else ''}, from the model hub")
    found.get(chosen, folder)
    return found.commit


def describe(found: Repository, folder: Path, parse_config: ParseConfig | None) -> None:
    """Get the files that say whether and how the model runs, and raise InputError if it cannot run."""
    from bertnli.data.tokenizer import PairTokenizer

    known_repositories.check(found.name, found.files)
    found.get(about(found.files), folder)
    config = folder / "config.json"
    try:
        if parse_config is not None:
            parse_config(read_json(config), f"model {found.name}/config.json")
        check_outputs(folder, f"model {found.name}")
        found.get(tokenizer(found.files), folder)
        PairTokenizer.from_folder(folder)
    except InputError as error:  # the folder is a temporary one
        raise InputError(str(error).replace(str(folder), f"model {found.name}")) from error


def _read_index(found: Repository, name: str, folder: Path) -> Any:
    found.get([name], folder)
    return read_json(folder / name)


def check_outputs(folder: Path, where: str) -> None:
    """Raise InputError if config.json says that the model is a classifier whose outputs cannot be read.

    Names that are missing are no reason: the user gives them.
    """
    from bertnli.data import output_config

    config = read_json(folder / "config.json")
    classes = config.get("architectures") or []
    if any("SequenceClassification" in str(name) for name in classes):
        names_missing = output_config.lacks_names(config, f"{where}/config.json")
        count = output_config.count(config, f"{where}/config.json")
        made_up = [f"label {index}" for index in range(count)] if names_missing else None
        output_config.read(config, f"{where}/config.json", other_files(folder), where, labels=made_up)


def other_files(folder: Path) -> dict[str, Any]:
    """The content of sentence-transformers' own files, of those that there are."""
    from bertnli.data.output_config import OTHER_FILES

    return {name: read_json(folder / name) for name in OTHER_FILES if (folder / name).is_file()}


def is_bi_encoder(folder: Path) -> bool:
    """Whether sentence-transformers made the model for embeddings of single texts: its modules have a pooling."""
    modules = read_json(folder / "modules.json") if (folder / "modules.json").is_file() else []
    return any("Pooling" in str(module.get("type")) for module in modules if isinstance(module, dict))
