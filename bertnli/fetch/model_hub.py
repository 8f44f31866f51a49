"""Fetches a model from the model hub: what says whether it can run first, then only the weights that are read.

Every file is checked against the hub's checksums. huggingface_hub asks the hub, so its environment variables
(HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN) are used. A file that its cache already has is linked, not copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bertnli.common import heartbeat
from bertnli.common.errors import InputError, first_line
from bertnli.common.files import cache_dir, read_json
from bertnli.common.progress import megabytes, say
from bertnli.fetch import known_folders, known_repositories
from bertnli.fetch.cache import LARGE, downloads_dir, kept_files, link_or_copy, lock
from bertnli.fetch.download import LONGEST_WAIT, check, download, new_client
from bertnli.fetch.entry import HubAnswerError, HubModel, SourceError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

ParseConfig = Callable[[Any, str], object]
"""Takes the content of a config.json, and a name of it for messages. Raises InputError if such a model cannot run."""

ANSWER_SECONDS = 10.0
_TRIES = 5  # for a hub that is busy; huggingface_hub tries again by itself, but not for the list of files
_SHOWN = 5_000_000  # bytes, of a file whose progress is shown
_LARGEST = 1 << 38  # bytes, of a file whose size the hub does not say

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
    """Copy the files that a loader needs. Raises as `model_files` does."""
    for name in model_files(source):
        shutil.copyfile(source / name, folder / name)


def model_files(source: Path) -> list[str]:
    """The names of the files in a model's folder that a loader needs, and of its card.

    Raises SourceError if it has no weights or no config.json, InputError for what known_folders.py recognises.
    """
    known_folders.check(source)
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    chosen = weights(names, lambda index: read_json(source / index))
    if "config.json" not in names or not chosen:
        raise SourceError(
            f"not a model: found {', '.join(names[:8]) or 'neither weights nor config.json'}; "
            "expected config.json and model.safetensors (or pytorch_model.bin)"
        )
    return [*about(names), *tokenizer(names), *filter(_CARD.fullmatch, names), *chosen]


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


class HubFile(NamedTuple):
    """size: in bytes. checksum: `sha256:…` of a large file, `git:…` of others (their blob). None: not known."""

    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Repository:
    """A model's repository at one commit. snapshot: its folder in huggingface_hub's cache, if the hub is not asked."""

    name: str  # as the user wrote it
    repo: str
    commit: str
    files: Mapping[str, HubFile]  # by their paths in it
    snapshot: Path | None = None

    def size(self, names: Iterable[str]) -> int | None:
        """Bytes of these files; None if the hub does not say."""
        sizes = [self.files[name].size for name in names]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def get(self, names: Iterable[str], folder: Path) -> None:
        """Put the files into `folder`, checked. Raises SourceError and OSError as `download_model` does."""
        with heartbeat.periodic(f"fetching {self.name}"):
            for name in names:
                if not (folder / name).exists():
                    self._get(name, folder / name)

    def _get(self, name: str, target: Path) -> None:
        if self.snapshot is not None:
            link_or_copy(self.snapshot / name, target, LARGE)
            return
        for there in self._on_this_machine(name):
            link_or_copy(there, target, LARGE)
            try:
                check_listed(target, self.files[name], name)
                return
            except SourceError as error:
                say(f"{self.name}: {there}: {error}; it is not used")
                target.unlink()
        self._download(name, target)

    def _on_this_machine(self, name: str) -> Iterator[Path]:
        """Where the file may already be: in huggingface_hub's cache, or in another folder of ours."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.repo, name, revision=self.commit)
        if isinstance(cached, str):
            yield Path(cached)
        if (checksum := self.files[name].checksum) is not None and checksum.startswith("sha256:"):
            yield from kept_files(checksum.removeprefix("sha256:"))

    def _download(self, name: str, target: Path) -> None:
        """Download a file. What a killed process has of it is continued (download.py), unlike in huggingface_hub 2."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        size, checksum = self.files[name]
        url = hf_hub_url(self.repo, name, revision=self.commit)
        folder = downloads_dir() / f"{self.repo.replace('/', '--')}--{self.commit}"
        sha256 = checksum if checksum is not None and checksum.startswith("sha256:") else None
        with lock(folder.name), new_client() as client:
            client.headers.update(build_hf_headers())  # the token; a redirect to another host does not get it
            folder.mkdir(parents=True, exist_ok=True)
            stored = folder / name
            try:
                download(
                    url,
                    stored,
                    limit=size or _LARGEST,
                    size=size,
                    checksum=sha256,
                    client=client,
                    shown=(size or _LARGEST) >= _SHOWN,
                )
                check_listed(stored, self.files[name], name)
                stored.replace(target)
            except SourceError as error:
                reason = str(error) if name in str(error) else f"{name}: {error}"
                raise _why(url, self.repo) or SourceError(reason) from error
            finally:
                stored.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # a part of a file is in it, for the next try
                    folder.rmdir()


def repository(source: HubModel) -> Repository:
    """The repository at the revision that the user gave. Raises SourceError if the hub does not have it.

    If the hub cannot be reached, or may not be asked (HF_HUB_OFFLINE), what its cache on this machine has.
    """
    if not os.path.expanduser("~").startswith("/"):  # noqa: PTH111  # no home folder: its cache goes beside ours
        os.environ.setdefault("HF_HOME", str(cache_dir() / "huggingface"))
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    for tries in range(1, _TRIES + 1):
        try:
            info = HfApi().model_info(
                source.repo, revision=source.revision, files_metadata=True, timeout=ANSWER_SECONDS
            )
            break
        except Exception as error:  # it also raises errors of its HTTP library
            if (answer := _as_answer(error, source.repo, source.revision)) is not None:
                raise answer from error
            wait = _wait(error, tries)
            if tries == _TRIES or wait is None:
                return _from_hub_cache(source, error)
            say(f"{source.name}: the hub is busy (HTTP {status_of(error)}); trying again in {wait:g} s")
            time.sleep(wait)
    files = {file.rfilename: listed(file) for file in info.siblings or []}
    return Repository(source.name, source.repo, info.sha or source.revision or "main", files)


def listed(file: RepoSibling) -> HubFile:
    """What the hub says about a file."""
    large = f"sha256:{file.lfs.sha256}" if file.lfs is not None else None
    return HubFile(file.size, large or (f"git:{file.blob_id}" if file.blob_id else None))


def _from_hub_cache(source: HubModel, why: Exception) -> Repository:
    """An earlier download in huggingface_hub's cache, for use when the hub cannot be reached."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = Path(
            huggingface_hub.snapshot_download(
                source.repo, revision=source.revision, local_files_only=True, allow_patterns=["config.json"]
            )
        )
    except LocalEntryNotFoundError:
        raise SourceError(f"cannot be reached ({reason(why)})") from why
    names = sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file())
    if not set(names) & set(known_repositories.WEIGHTS):
        raise SourceError(f"cannot be reached ({reason(why)}), and its cache on this machine has no weights of it")
    files = {name: HubFile((snapshot / name).stat().st_size) for name in names}
    say(f"{source.name}: the hub cannot be reached; taken from its cache on this machine, {snapshot}")
    return Repository(source.name, source.repo, snapshot.name, files, snapshot)


# What the hub answers


def _as_answer(error: Exception, repo: str, revision: str | None = None) -> HubAnswerError | None:
    """The error of an answer that another try would get again; None if another try may succeed."""
    from huggingface_hub import constants, errors, get_token

    token, page = "the token in HF_TOKEN or of `hf auth login`", f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        if get_token() is None:
            return HubAnswerError("a gated model, and no token", f"accept its conditions on {page}, and set HF_TOKEN")
        return HubAnswerError(f"a gated model, and {token} has no access to it", f"accept its conditions on {page}")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubAnswerError(f"no branch, tag or commit {revision!r} in it", f"take one of {page}/tree/main, or none")
    if isinstance(error, errors.DisabledRepoError):
        return HubAnswerError("a model that the hub has disabled", "take another one")
    status = status_of(error)
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and get_token() is None):
        if (kind := _other_kind(repo)) is not None:
            return HubAnswerError(f"a {kind} on the hub, not a model", "give the hub id of a model")
        private = "set HF_TOKEN" if get_token() is None else f"{token} does not show it to you: check its permissions"
        return HubAnswerError(
            "no such model on the hub, or it is private", f"check the name; if it is private: {private}"
        )
    if status == 401:
        return HubAnswerError(f"the hub does not accept {token}", "set a new one, or unset HF_TOKEN for a public model")
    if status == 403:
        return HubAnswerError(f"the hub forbids it: {token} lacks the permission", "give it access to this model")
    return None


def _why(url: str, repo: str) -> HubAnswerError | None:
    """Why the hub does not give a file, in the words of `_as_answer`: huggingface_hub reads its answers."""
    from huggingface_hub import get_hf_file_metadata

    try:
        get_hf_file_metadata(url, timeout=ANSWER_SECONDS, retry_on_errors=False)
    except Exception as error:  # it also raises errors of its HTTP library
        return _as_answer(error, repo)
    return None


def _other_kind(repo: str) -> str | None:
    """`data set` or `space` if there is one of this name. They have names of their own on the hub."""
    from huggingface_hub import HfApi

    hub = HfApi()
    for kind, ask in (("data set", hub.dataset_info), ("space", hub.space_info)):
        try:
            ask(repo, timeout=ANSWER_SECONDS)
            return kind
        except Exception:  # not one of these, or it cannot be asked
            continue
    return None


def status_of(error: BaseException) -> int | None:
    """The hub's answer by HTTP that an error is of; None if it is of none."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _wait(error: Exception, tries: int) -> float | None:
    """Seconds to wait before the next try, if the hub is busy; None if that is not what the error says."""
    status = status_of(error)
    if status is None or (status not in (408, 429) and status < 500):
        return None
    asked = error.response.headers.get("retry-after", "")  # type: ignore[attr-defined]  # it has a status
    wait = float(asked) if asked.isdecimal() else 0.5 * 2 ** (tries - 1)
    return wait if wait <= LONGEST_WAIT else None


def reason(error: BaseException) -> str:
    """One line; of an answer by HTTP its status alone, without huggingface_hub's advice and the URL."""
    status = status_of(error)
    if status is None:
        return first_line(error)
    advice = ": wait, or set HF_TOKEN, which has higher limits" if status == 429 else ""
    return f"HTTP {status} {error.response.reason_phrase}{advice}"  # type: ignore[attr-defined]  # it has a status


def check_listed(content: Path | bytes, file: HubFile, name: str) -> None:
    """Check a file against the hub's list: sha256 of large files, git's blob id (sha1 with a header) of others. Raises
    SourceError with its name."""
    if file.checksum is None:
        return
    algorithm, _, expected = file.checksum.partition(":")
    if algorithm != "git" and isinstance(content, Path):
        check(content, file.checksum)
        return
    content = content if isinstance(content, bytes) else content.read_bytes()
    if algorithm == "git":
        found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    else:
        found = hashlib.sha256(content).hexdigest()
    if found != expected:
        what = "git blob" if algorithm == "git" else algorithm
        raise SourceError(f"wrong checksum of {name}: found {what} {found}, expected {expected}")


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
