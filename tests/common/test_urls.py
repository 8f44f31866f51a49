"""What of a URL may be shown: never a user, a password or a query."""

from __future__ import annotations

import pytest

from bertnli.common.errors import InputError
from bertnli.common.printable import printable
from bertnli.common.urls import has_secret, is_url, redact, redacted

SECRETS = [
    ("https://me:pw@host/a.csv", "https://host/a.csv"),
    ("https://token@host/a.csv", "https://host/a.csv"),
    ("https://host/a.csv?X-Amz-Signature=secret&b=1", "https://host/a.csv"),
    ("s3://key:secret@bucket/a.csv", "s3://bucket/a.csv"),
    ("abfs://box:secret@account.dfs.core.windows.net/a.csv", "abfs://account.dfs.core.windows.net/a.csv"),
]
PLAIN = ["s3://bucket/a b.csv", "abfs://box@account.dfs.core.windows.net/a.csv", "hf://datasets/org/name/a.parquet"]


@pytest.mark.parametrize(("url", "shown"), SECRETS)
def test_secrets_are_in_no_message(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert has_secret(url)
    for text in (url, f"cannot read {url}; try again", f"'{url}' (two: {url})"):
        for made in (redacted(text), printable(text), str(InputError(text, found=text, do=text, lines=[text]))):
            assert "secret" not in made and "pw" not in made and "token" not in made and "me:" not in made
            assert shown.rpartition("/")[0].partition("://")[2] in made, "what is no secret is shown"


@pytest.mark.parametrize("url", PLAIN)
def test_what_is_no_secret_stays(url: str) -> None:
    assert redact(url) == redacted(url) == printable(url) == url
    assert not has_secret(url)
    assert is_url(url)


@pytest.mark.parametrize("text", ["a.csv", "C:/a.csv", "x?y=1", "what://", "me@host: why?", "archive.zip#a", ""])
def test_other_text_stays(text: str) -> None:
    assert redacted(text) == text
    assert is_url(text) is (text == "what://")
