"""Stores of files elsewhere, `s3://`, `gs://`, `az://`, `abfs://` and `hf://`, through fsspec.

Their file systems find their credentials in the environment. Every request has a time-out, and what fails is tried
again, so a store that fails or stalls ends in an error or in an answer.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from bertnli.common.errors import BertnliError, InputError, RunError, causes, first_line
from bertnli.common.urls import has_secret, redact, redacted
from bertnli.fetch.download import FIRST_PAUSE, FRUITLESS_TRIES, SILENCE_SECONDS

_SLOWEST = 256 << 10  # bytes per second; an upload that is slower is tried again
_T = TypeVar("_T")


class _Kind(NamedTuple):
    module: str
    credentials: str


_S3 = _Kind("s3fs", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (FSSPEC_S3_ANON=true: without any)")
_GS = _Kind("gcsfs", "GOOGLE_APPLICATION_CREDENTIALS")
_AZURE = _Kind("adlfs", "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or _CONNECTION_STRING")
_HUB = _Kind("huggingface_hub", "HF_TOKEN")
STORES = {"s3": _S3, "s3a": _S3, "gs": _GS, "gcs": _GS, "az": _AZURE, "abfs": _AZURE, "abfss": _AZURE, "hf": _HUB}
WEB = ("http", "https")
AGAIN = "give the same command again: it continues"


class GivenUpError(Exception):
    """It failed in each of several tries. The text is the last reason."""


class ObjectStore:
    """The store that `url` names. path: of the URL in it. shown: the URL for messages, without secrets.

    Raises InputError for a URL of another kind, for one with a user, a password or a query, and if the package for its
    kind is not installed.
    """

    def __init__(self, url: str):
        self.shown = redact(url)
        scheme = urlsplit(url).scheme.lower()
        if scheme not in STORES:
            expected = ", ".join(f"{known}://" for known in (*STORES, *WEB))
            raise InputError(f"{self.shown}: a kind of URL that is not read", expected=expected)
        self.kind = STORES[scheme]
        if has_secret(url):
            raise InputError(
                f"{self.shown}: a user, a password or a query in the URL",
                expected=f"credentials in the environment: {self.kind.credentials}",
                do="remove it from the URL",
            )
        self.file_system, self.path = self._opened(url)

    def call(self, method: str, *arguments: Any, size: int = 0, **options: Any) -> Any:
        """One call of the file system, with a time-out where fsspec has one; huggingface_hub has its own. size: bytes
        to send."""
        if self.file_system.async_impl:
            options["timeout"] = SILENCE_SECONDS + size / _SLOWEST
        return getattr(self.file_system, method)(*arguments, **options)

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """The same, in one of a few tries. Raises FileNotFoundError, and as `tried` does."""
        return self.tried(lambda: self.call(method, *arguments, **options))

    def tried(self, action: Callable[[], _T]) -> _T:
        """The result of `action`, in one of a few tries. Raises InputError for what may not be done, RunError if the
        store fails."""
        try:
            return tried(action)
        except GivenUpError as error:
            raise RunError(f"{self.shown}: the store fails: {error}", do=AGAIN) from None
        except (BertnliError, FileNotFoundError):
            raise
        except Exception as error:
            raise self._refused(error) from None

    def info(self) -> dict[str, Any] | None:
        """What the store says of the URL now; None if there is nothing. Raises as `tried` does."""
        self.file_system.invalidate_cache()
        try:
            about: dict[str, Any] = self.ask("info", self.path)
        except FileNotFoundError:
            return None
        return about

    def _opened(self, url: str) -> tuple[Any, str]:
        import fsspec

        try:
            importlib.import_module(self.kind.module)
            file_system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            missing = error.name or self.kind.module
            do = f"pip install {self.kind.module}" if missing == self.kind.module else f"pip install {missing}"
            raise InputError(f"{self.shown}: needs {missing}, which is not installed", do=do) from None
        except Exception as error:  # each file system looks for credentials in its own way
            raise self._refused(error) from None
        return file_system, path

    def _refused(self, error: Exception) -> InputError:
        return InputError(
            f"{self.shown}: cannot be used ({redacted(first_line(error))})",
            do=f"check the name, the rights, and the credentials in the environment: {self.kind.credentials}",
        )


def tried(action: Callable[[], _T]) -> _T:
    """The result of `action`, in one of a few tries. Raises GivenUpError, or at once what no other try changes."""
    for number in range(FRUITLESS_TRIES):
        try:
            return action()
        except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError, MemoryError):
            raise
        except (ValueError, TypeError, BertnliError):
            raise
        except Exception as error:
            if any("credential" in type(cause).__name__.lower() for cause in causes(error)):
                raise
            reason = redacted(first_line(error))
            last = f"no answer in {SILENCE_SECONDS:g} s" if "timeout" in type(error).__name__.lower() else reason
        if number + 1 < FRUITLESS_TRIES:
            time.sleep(FIRST_PAUSE * 2**number)
    raise GivenUpError(last)
