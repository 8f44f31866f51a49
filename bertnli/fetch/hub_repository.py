"""A repository of the model hub, of a model or a data set, at one commit: its files, and each of them, checked.

Every file is checked against the hub's checksums. huggingface_hub asks the hub, so its environment variables
(HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN) are used. A file that its cache already has is linked, not copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from bertnli.common import heartbeat
from bertnli.common.errors import first_line
from bertnli.common.files import cache_dir
from bertnli.common.progress import say
from bertnli.fetch import known_repositories
from bertnli.fetch.cache import LARGE, downloads_dir, kept_files, link_or_copy, lock
from bertnli.fetch.download import LONGEST_WAIT, check, download, new_client
from bertnli.fetch.entry import HubAnswerError, HubDataSet, HubModel, Kind, SourceError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

ANSWER_SECONDS = 10.0
_TRIES = 5  # for a hub that is busy; huggingface_hub tries again by itself, but not for the list of files
_SHOWN = 5_000_000  # bytes, of a file whose progress is shown
_LARGEST = 1 << 38  # bytes, of a file whose size the hub does not say
_WORDS: dict[Kind, str] = {"model": "model", "dataset": "data set"}


class HubFile(NamedTuple):
    """size: in bytes. checksum: `sha256:…` of a large file, `git:…` of others (their blob). None: not known."""

    size: int | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit. snapshot: its folder in huggingface_hub's cache, if the hub is not asked. card: the
    front matter of its README, if the hub says it."""

    name: str  # as the user wrote it
    repo: str
    commit: str
    files: Mapping[str, HubFile]  # by their paths in it
    snapshot: Path | None = None
    kind: Kind = "model"
    card: Mapping[str, Any] = field(default_factory=dict)

    def size(self, names: Iterable[str]) -> int | None:
        """Bytes of these files; None if the hub does not say."""
        sizes = [self.files[name].size for name in names]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def get(self, names: Iterable[str], folder: Path) -> None:
        """Put the files into `folder`, checked. Raises SourceError if the hub does not give them, and OSError."""
        with heartbeat.periodic(f"fetching {self.name}"):
            for name in names:
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise SourceError(f"{name}: a path outside its folder")
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
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

        cached = try_to_load_from_cache(self.repo, name, revision=self.commit, repo_type=self.kind)
        if isinstance(cached, str):
            yield Path(cached)
        if (checksum := self.files[name].checksum) is not None and checksum.startswith("sha256:"):
            yield from kept_files(checksum.removeprefix("sha256:"))

    def _download(self, name: str, target: Path) -> None:
        """Download a file. What a killed process has of it is continued (download.py), unlike in huggingface_hub 2."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        size, checksum = self.files[name]
        url = hf_hub_url(self.repo, name, revision=self.commit, repo_type=self.kind)
        of_data = "datasets--" if self.kind == "dataset" else ""
        folder = downloads_dir() / f"{of_data}{self.repo.replace('/', '--')}--{self.commit}"
        sha256 = checksum if checksum is not None and checksum.startswith("sha256:") else None
        with lock(folder.name), new_client() as client:
            client.headers.update(build_hf_headers())  # the token; a redirect to another host does not get it
            folder.mkdir(parents=True, exist_ok=True)
            stored = folder / name
            stored.parent.mkdir(parents=True, exist_ok=True)
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
                what = str(error) if name in str(error) else f"{name}: {error}"
                raise _why(url, self.repo, self.kind) or SourceError(what) from error
            finally:
                stored.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # a part of a file is in it, for the next try
                    for empty in (stored.parent, *stored.parent.parents):
                        empty.rmdir()
                        if empty == folder:
                            break


def repository(source: HubModel | HubDataSet) -> Repository:
    """The repository at the revision that the user gave. Raises SourceError if the hub does not have it.

    If the hub cannot be reached, or may not be asked (HF_HUB_OFFLINE): of a model what its cache on this machine has.
    """
    kind: Kind = "model" if isinstance(source, HubModel) else "dataset"
    if not os.path.expanduser("~").startswith("/"):  # noqa: PTH111  # no home folder: its cache goes beside ours
        os.environ.setdefault("HF_HOME", str(cache_dir() / "huggingface"))
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    for tries in range(1, _TRIES + 1):
        try:
            ask: Any = HfApi().model_info if kind == "model" else HfApi().dataset_info
            info = ask(source.repo, revision=source.revision, files_metadata=True, timeout=ANSWER_SECONDS)
            break
        except Exception as error:  # it also raises errors of its HTTP library
            if (answer := _as_answer(error, source.repo, kind, source.revision)) is not None:
                raise answer from error
            wait = _wait(error, tries)
            if tries == _TRIES or wait is None:
                if isinstance(source, HubModel):
                    return _from_hub_cache(source, error)
                raise SourceError(f"cannot be reached ({reason(error)})") from error
            say(f"{source.name}: the hub is busy (HTTP {status_of(error)}); trying again in {wait:g} s")
            time.sleep(wait)
    files = {file.rfilename: listed(file) for file in info.siblings or []}
    commit = info.sha or source.revision or "main"
    card = info.card_data.to_dict() if kind == "dataset" and info.card_data is not None else {}
    return Repository(source.name, source.repo, commit, files, kind=kind, card=card)


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


def _as_answer(error: Exception, repo: str, kind: Kind, revision: str | None = None) -> HubAnswerError | None:
    """The error of an answer that another try would get again; None if another try may succeed."""
    from huggingface_hub import constants, errors, get_token

    word, folder = _WORDS[kind], "datasets/" if kind == "dataset" else ""
    token, page = "the token in HF_TOKEN or of `hf auth login`", f"{constants.ENDPOINT}/{folder}{repo}"
    if isinstance(error, errors.GatedRepoError):
        if get_token() is None:
            return HubAnswerError(f"a gated {word}, and no token", f"accept its conditions on {page}, and set HF_TOKEN")
        return HubAnswerError(f"a gated {word}, and {token} has no access to it", f"accept its conditions on {page}")
    if isinstance(error, errors.RevisionNotFoundError):
        return HubAnswerError(f"no branch, tag or commit {revision!r} in it", f"take one of {page}/tree/main, or none")
    if isinstance(error, errors.DisabledRepoError):
        return HubAnswerError(f"a {word} that the hub has disabled", "take another one")
    status = status_of(error)
    if isinstance(error, errors.RepositoryNotFoundError) or (status == 401 and get_token() is None):
        if (other := _other_kind(repo, kind)) is not None:
            of_data = ", or to train on it hf:ORG/NAME:SPLIT" if other == "data set" else ""
            return HubAnswerError(f"a {other} on the hub, not a {word}", f"give the hub id of a {word}{of_data}")
        private = "set HF_TOKEN" if get_token() is None else f"{token} does not show it to you: check its permissions"
        return HubAnswerError(
            f"no such {word} on the hub, or it is private", f"check the name; if it is private: {private}"
        )
    if status == 401:
        return HubAnswerError(
            f"the hub does not accept {token}", f"set a new one, or unset HF_TOKEN for a public {word}"
        )
    if status == 403:
        return HubAnswerError(f"the hub forbids it: {token} lacks the permission", f"give it access to this {word}")
    return None


def _why(url: str, repo: str, kind: Kind) -> HubAnswerError | None:
    """Why the hub does not give a file, in the words of `_as_answer`: huggingface_hub reads its answers."""
    from huggingface_hub import get_hf_file_metadata

    try:
        get_hf_file_metadata(url, timeout=ANSWER_SECONDS, retry_on_errors=False)
    except Exception as error:  # it also raises errors of its HTTP library
        return _as_answer(error, repo, kind)
    return None


def _other_kind(repo: str, kind: Kind) -> str | None:
    """`data set`, `model` or `space` if there is one of this name. They have names of their own on the hub."""
    from huggingface_hub import HfApi

    hub = HfApi()
    asks: dict[str, Callable[..., Any]] = {
        "model": hub.model_info,
        "data set": hub.dataset_info,
        "space": hub.space_info,
    }
    del asks[_WORDS[kind]]
    for other, ask in asks.items():
        try:
            ask(repo, timeout=ANSWER_SECONDS)
            return other
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
