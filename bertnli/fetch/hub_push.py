"""Pushes a folder's files to a repository on the model hub, as one commit: all of them, or none.

huggingface_hub asks the hub, and takes the token from its own places alone: HF_TOKEN or `hf auth login`. Large files
are uploaded first, where nobody sees them; the commit names them, and is made on the commit that was looked at before.
So a push that stops leaves at most an empty new repository, and what it has uploaded is not uploaded again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertnli.common import heartbeat
from bertnli.common.errors import InputError, RunError, first_line
from bertnli.common.progress import megabytes, say
from bertnli.fetch.entry import SourceError
from bertnli.fetch.hub_repository import check_listed, listed, reason, status_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

_TOKEN = "the token in HF_TOKEN or of `hf auth login`"
_LEFT_ALONE = ("README", "LICENSE", "LICENCE", "NOTICE")  # descriptions; and hidden files, such as .gitattributes


@dataclass(frozen=True)
class Pushed:
    """url: of the repository. commit: its newest one. new: whether this push made it. private: the repository is."""

    url: str
    commit: str
    new: bool
    private: bool


def push(
    files: Mapping[str, Path | bytes],
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str,
    delete_others: bool = False,
) -> Pushed:
    """Make `files`, by their paths in it, the content of the repository `repo` (org/name).

    private: of a new repository, by default True; one that exists must be so, if it is given. revision: a branch, made
    if it is missing; None: main. delete_others: remove the repository's other files in the same commit.

    Raises InputError for a name that cannot be, without a token, if the hub does not accept it or gives no permission,
    and if the repository has other files, unless `delete_others`; RunError if it cannot be reached or breaks off, and
    if what the hub has afterwards is not what was pushed.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import HFValidationError, validate_repo_id
    from huggingface_hub.utils.tqdm import disable_progress_bars

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise _no_name(repo) from None
    if repo.count("/") != 1:
        raise _no_name(repo)
    if revision == "":
        raise InputError("--revision", found="''", expected="a branch's name")
    hub = HfApi()
    _check_environment(repo, hub.endpoint)
    if not sys.stderr.isatty():
        disable_progress_bars()
    size = megabytes(sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in files.values()))
    try:
        before = _prepared(hub, repo, private, revision)
        others = sorted({file.rfilename for file in before.siblings or []} - files.keys())
        others = [name for name in others if not _is_left_alone(name)]
        if others and not delete_others:
            shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
            raise InputError(
                f"{repo}: the repository has other files, which programs that open it might read",
                found=shown,
                do="delete them in the same commit with --delete-others, or push to another repository",
            )
        say(f"{repo}: pushing {len(files)} files, {size}")
        operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in others]
        operations += [CommitOperationAdd(path_in_repo=name, path_or_fileobj=one) for name, one in files.items()]
        with heartbeat.periodic(f"pushing to {repo}"):
            commit = hub.create_commit(
                repo,
                operations,
                commit_message=message,
                revision=revision,
                parent_commit=before.sha,
            )
        after = hub.model_info(repo, revision=commit.oid, files_metadata=True)
    except InputError:
        raise
    except Exception as error:  # huggingface_hub also raises errors of its HTTP library
        raise _explained(error, repo) from error
    _check_whole(after, files, repo)
    return Pushed(f"{hub.endpoint}/{repo}", str(commit.oid), commit.oid != before.sha, bool(after.private))


def _check_environment(repo: str, endpoint: str) -> None:
    """Raise InputError for settings of huggingface_hub's with which no push can succeed."""
    from huggingface_hub import constants, get_token

    token, where = get_token(), f"push to {repo}"
    set_one = "set HF_TOKEN to one with write access, or log in with `hf auth login`"
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{where}: HF_HUB_OFFLINE is set, so the hub may not be asked", do="unset it")
    if not endpoint.startswith(("https://", "http://")):
        raise InputError(f"{where}: HF_ENDPOINT", found=repr(endpoint), expected="https://… or http://…")
    if token is None:
        raise InputError(f"{where}: no token", do=set_one)
    if not token.isascii():
        raise InputError(f"{where}: {_TOKEN}", found="characters that no token has", do=set_one)


def _prepared(hub: HfApi, repo: str, private: bool | None, revision: str | None) -> ModelInfo:
    """The repository and the branch as they are; made, if they are missing."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = hub.model_info(repo)
    except RepositoryNotFoundError:
        hub.create_repo(repo, private=private is not False, exist_ok=True)
        found = hub.model_info(repo)
    if private is not None and bool(found.private) != private:
        states = {True: "private", False: "public"}
        raise InputError(
            f"{repo}: the repository is {states[not private]}",
            expected=states[private],
            do=f"change it in its settings on the hub, or omit --{states[private]}",
        )
    if revision is None:
        return found
    try:
        return hub.model_info(repo, revision=revision)
    except RevisionNotFoundError:
        hub.create_branch(repo, branch=revision, exist_ok=True)
        return hub.model_info(repo, revision=revision)


def _is_left_alone(name: str) -> bool:
    return name.startswith(".") or ("/" not in name and Path(name).stem.upper() in _LEFT_ALONE)


def _check_whole(after: ModelInfo, files: Mapping[str, Path | bytes], repo: str) -> None:
    """Raise RunError unless the hub's checksums are those of the files."""
    there = {file.rfilename: listed(file) for file in after.siblings or []}
    try:
        for name, file in files.items():
            if name not in there:
                raise SourceError(f"{name} is not there")
            check_listed(file, there[name], name)
    except SourceError as error:
        raise RunError(
            f"{repo}: what the hub has is not what was pushed: {error}", do="give the same command again"
        ) from None


def _no_name(repo: str) -> InputError:
    return InputError("push", found=repr(repo), expected="a repository's name, org/name")


def _explained(error: Exception, repo: str) -> InputError | RunError:
    """The message of what huggingface_hub raises. It has neither the token nor an address with a signature."""
    cause: BaseException = error  # of an upload in a thread, the error is another one's cause
    while status_of(cause) is None and cause.__cause__ is not None:
        cause = cause.__cause__
    status = status_of(cause)
    if status == 401:
        return InputError(f"push to {repo}: the hub does not accept {_TOKEN}", do="set one with write access")
    # Where a large file is uploaded to, no token is sent: the address has a signature, which may have expired.
    with_token = status is not None and "authorization" in cause.response.request.headers  # type: ignore[attr-defined]
    if status in (403, 404) and with_token:
        return InputError(
            f"push to {repo}: the hub forbids it",
            found=f"{_TOKEN}, without write access there",
            do="take one that has it, or a name of your own",
        )
    if status in (409, 412):
        return RunError(
            f"push to {repo}: somebody else pushed in the meantime; nothing was changed",
            do="give the same command again",
        )
    if status is not None and 400 <= status < 500 and status not in (403, 404, 408, 429):  # it would answer so again
        said = getattr(cause, "server_message", None) if with_token else None
        return InputError(
            f"push to {repo}: the hub refuses it, and nothing was changed",
            found=reason(cause) + (f", {first_line(ValueError(said))}" if said else ""),
            do="push a smaller model, or ask the hub for more room" if status == 413 else "change what it refuses",
        )
    return RunError(
        f"push to {repo}: broke off, and the repository has all of it or nothing: {reason(cause)}",
        do="give the same command again; what is there is not sent again",
    )
