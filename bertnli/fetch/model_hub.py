"""Fetches a model from the model hub: the files that a BERT loader reads, each checked against the hub's checksums.

huggingface_hub does the transfer, so its environment variables (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN) and its
cache are used.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bertnli.common import heartbeat
from bertnli.common.errors import first_line
from bertnli.common.files import cache_dir
from bertnli.common.progress import say
from bertnli.fetch import known_folders
from bertnli.fetch.download import check
from bertnli.fetch.entry import NoSuchModelError, SourceError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

ANSWER_SECONDS = 10.0

_BESIDE_WEIGHTS = re.compile(
    r"config\.json|adapter_config\.json|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(txt|json)"
    r"|README\.md|LICENSE(\.\w+)?"
)
# One file, or numbered shards with their index. The pickled form is used only if there is no other.
_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")


def wanted(names: list[str]) -> list[str]:
    """The file names in `names` that a BERT loader needs, and the licence and the model card."""
    weights = [name for name in names if _SAFETENSORS.fullmatch(name)] or [
        name for name in names if _PICKLED.fullmatch(name)
    ]
    return [name for name in names if _BESIDE_WEIGHTS.fullmatch(name)] + weights


def copy_model(source: Path, folder: Path) -> None:
    """Copy the files that a BERT loader needs.

    Raises SourceError if `source` has no weights or no config.json, InputError for what known_folders.py recognises.
    """
    known_folders.check(source)
    names = wanted(sorted(path.name for path in source.iterdir() if path.is_file()))
    if "config.json" not in names or not any(name.endswith((".safetensors", ".bin")) for name in names):
        raise SourceError(
            f"not a BERT model: found {', '.join(names) or 'neither weights nor config.json'}; "
            "expected config.json and model.safetensors (or pytorch_model.bin)"
        )
    for name in names:
        shutil.copyfile(source / name, folder / name)


def download_model(repo: str, folder: Path) -> str:
    """Download the model's files into `folder`, which must exist. Returns their commit.

    Raises SourceError if the hub does not give them, OSError if they cannot be written.
    """
    if not os.path.expanduser("~").startswith("/"):  # noqa: PTH111  # no home folder: its cache goes beside ours
        os.environ.setdefault("HF_HOME", str(cache_dir() / "huggingface"))
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    # huggingface_hub also raises errors of its HTTP library, so these excepts are broad.
    try:
        info = huggingface_hub.HfApi().model_info(repo, files_metadata=True, timeout=ANSWER_SECONDS)
    except GatedRepoError as error:
        raise SourceError("gated: log in (hf auth login) and accept its owner's conditions first") from error
    except RepositoryNotFoundError as error:
        raise NoSuchModelError("no such model, or it is private (hf auth login)") from error
    except Exception as error:
        snapshot = _from_hub_cache(repo, error)
        copy_model(snapshot, folder)
        return snapshot.name
    listed = {file.rfilename: file for file in info.siblings or []}
    names = wanted(list(listed))
    say(f"{repo}: {len(names)} files from the model hub")
    try:
        with heartbeat.periodic(f"fetching {repo}"):
            snapshot = Path(huggingface_hub.snapshot_download(repo, revision=info.sha, allow_patterns=names))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, error.strerror, huggingface_hub.constants.HF_HUB_CACHE) from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS):
            raise
        raise SourceError(first_line(error)) from error
    copy_model(snapshot, folder)
    for path in folder.iterdir():
        _check_listed(path, listed[path.name])
    return str(info.sha)


def _from_hub_cache(repo: str, why: Exception) -> Path:
    """The folder of an earlier download in huggingface_hub's cache, for use when the hub cannot be reached."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = huggingface_hub.snapshot_download(repo, local_files_only=True, allow_patterns=["config.json"])
    except LocalEntryNotFoundError:
        raise SourceError(f"cannot be reached ({first_line(why)})") from why
    say(f"{repo}: the hub cannot be reached; taken from its cache on this machine, {snapshot}")
    return Path(snapshot)


def _check_listed(path: Path, file: RepoSibling) -> None:
    """Check a file against the hub's list: sha256 of large files, git's blob id (sha1 with a header) of others."""
    if file.lfs is not None:
        check(path, f"sha256:{file.lfs.sha256}")
        return
    content = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if file.blob_id is not None and found != file.blob_id:
        raise SourceError(f"wrong checksum of {path.name}: found git blob {found}, expected {file.blob_id}")
