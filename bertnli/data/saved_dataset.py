"""A folder that `save_to_disk` of the datasets library (Hugging Face) makes: Arrow streams, and state.json about them.

Source: datasets/arrow_dataset.py, `Dataset.save_to_disk` and `load_from_disk`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from bertnli.common.errors import InputError
from bertnli.common.files import read_map

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_LARGEST_STATE = 1 << 24  # bytes


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` made it, of one split."""
    try:
        state = folder / _STATE
        return state.stat().st_size <= _LARGEST_STATE and "_data_files" in read_map(state)
    except (OSError, InputError):
        return False


def saved_folders(paths: Iterable[Path]) -> set[Path]:
    """Those among these folders, and around a state.json among these files."""
    return {folder for folder in {p.parent if p.name == _STATE else p for p in paths} if is_saved(folder)}


def describes_splits(path: Path, saved: Collection[Path]) -> bool:
    """Whether a file is that of a saved DatasetDict, whose splits are among `saved`."""
    return path.name == _SPLITS and any(folder.parent == path.parent for folder in saved)


def saved_names(names: Collection[str]) -> list[str]:
    """Which of the folders of these files, names with slashes, look like saved ones."""
    folders = {str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == _STATE}
    return sorted(folder for folder in folders if str(PurePosixPath(folder) / "dataset_info.json") in names)


def data_files(folder: str) -> list[str]:
    """The Arrow files of the data set in `folder`, in the order of its rows.

    Of a DatasetDict with one split, that one is read. Raises InputError if it is another folder, holds several splits,
    which it names, or is not complete.
    """
    path = Path(folder)
    if (path / _SPLITS).exists():
        splits = read_map(path / _SPLITS).get("splits")
        names = [str(name) for name in splits] if isinstance(splits, list) else []
        if len(names) == 1 and Path(names[0]).name == names[0]:
            return data_files(str(path / names[0]))
        raise InputError(
            f"{folder}: a saved DatasetDict",
            found=f"the splits {', '.join(names)}" if names else f"no splits in its {_SPLITS}",
            expected="one split",
            do=f"name it, as in {path / names[0]}" if names else "save it again",
        )
    if not (path / _STATE).exists():
        raise InputError(
            f"{folder}: is a folder", expected="a file of sentence pairs, or a folder that Dataset.save_to_disk made"
        )
    state = read_map(path / _STATE)
    if state.get("_indices_files") or state.get("_indices_data_files"):  # written by datasets 1
        raise InputError(
            f"{folder}: its rows are chosen by another file", do="save it again with flatten_indices() before it"
        )
    listed = state.get("_data_files")
    entries = listed if isinstance(listed, list) else []
    names = [str(entry.get("filename")) for entry in entries if isinstance(entry, dict)]
    if not names or any(Path(name).name != name for name in names):
        expected = "the names of its data files, without folders"
        raise InputError(f"{path / _STATE}: key _data_files", expected=expected, do="save it again")
    for name in names:
        if not (path / name).is_file():
            raise InputError(f"{path / name}: no such file", expected=f"a file, as {_STATE} says", do="get it again")
    return [str(path / name) for name in names]
