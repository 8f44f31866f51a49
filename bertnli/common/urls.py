"""URLs of files elsewhere, and how they are shown: without what may be secret."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# In a text: user and password, and the query, of which a signed URL consists. Azure's container@account is no secret.
_USER = re.compile(r"(?<=://)(?:[^\s/@:]+:[^\s/@]*|(?<!abfs://)(?<!abfss://)(?<!az://)[^\s/@]+)@")
_QUERY = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s?#'\"]+)\?[^\s'\"#;]+")


def is_url(name: str) -> bool:
    """Whether a name is that of a file elsewhere: `s3://bucket/pairs.tsv`."""
    return _URL.match(name) is not None


def redact(url: str) -> str:
    """The URL without user, password, query and fragment, which may contain secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed URL"
    user, at, host = parts.netloc.rpartition("@")
    if parts.scheme in ("abfs", "abfss", "az") and ":" not in user:
        host = user + at + host
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def has_secret(url: str) -> bool:
    """Whether it has a user, a password or a query."""
    return is_url(url) and redact(url) != url.partition("#")[0]


def redacted(text: str) -> str:
    """A message without the users, passwords and queries of the URLs in it."""
    return _QUERY.sub(r"\1?…", _USER.sub("…@", text)) if "://" in text else text
