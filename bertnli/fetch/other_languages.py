"""The catalogue's data sets of natural language inference in other languages than English: XNLI, OCNLI, CMNLI.

The checksums are those that the datasets library recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

from bertnli.data.columns import Columns
from bertnli.fetch.entry import Archive, DataSetSchema, Entry, Unpacked

XNLI_LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")

_XNLI_ZIP = Archive(
    filename="XNLI-1.0.zip",
    checksum="sha256:4ba1d5e1afdb7161f0f23c66dc787802ccfa8a25a3ddd3b165a35e50df346ab1",
    unpacked_limit=500_000_000,
    size=17_865_352,
    url="https://dl.fbaipublicfiles.com/XNLI/XNLI-1.0.zip",
)
_XNLI_MT_ZIP = Archive(
    filename="XNLI-MT-1.0.zip",
    checksum="sha256:f732517ba2fb1d550e9f3c2aabaef6017c91ee2dcec90e878f138764d224db05",
    unpacked_limit=5_000_000_000,
    size=466_098_360,
    url="https://dl.fbaipublicfiles.com/XNLI/XNLI-MT-1.0.zip",
)
_OCNLI_ZIP = Archive(
    filename="OCNLI-02d55cb.zip",
    checksum="sha256:93abd5dbe417101d4c7526920fae59cc67969936c1868b1559fa4802839c49d0",
    unpacked_limit=200_000_000,
    size=4_359_754,
    url="https://github.com/CLUEbenchmark/OCNLI/archive/02d55cb3c7dc984682677b8dd81db6a1e4710720.zip",
)
_CMNLI_ZIP = Archive(
    filename="cmnli_public.zip",
    checksum="sha256:3a3f3b1d3d27134cf11e585156f07fa050bd0a0836821c02696af0dbaa14513b",
    unpacked_limit=500_000_000,
    size=31_404_066,
    url="https://storage.googleapis.com/cluebenchmark/tasks/cmnli_public.zip",
)
_XNLI_PAPER = "Conneau et al. 2018, https://aclanthology.org/D18-1269"


def _xnli(language: str | None, split: str, rows: int, size: int) -> Entry:
    """dev or test: of one language, or of all."""
    filename = f"xnli.{split}.{language or 'all'}.tsv"
    about = f"{language}: {rows:,} pairs" if language else f"all 15 languages: {15 * rows:,} pairs"
    return Entry(
        name=f"xnli-{language}-{split}" if language else f"xnli-{split}",
        kind="dataset",
        about=f"XNLI {split}, {about}",
        licence="CC BY-NC 4.0",
        verified_by="sha256 of XNLI-1.0.zip",
        size=size if language else 15 * size,
        files={filename: None},
        sources=(
            Unpacked(
                _XNLI_ZIP,
                {f"XNLI-1.0/xnli.{split}.tsv": filename},
                rows=("language", language) if language else None,
            ),
        ),
        paper=_XNLI_PAPER,
        language=language or "multilingual",
        listed_as=f"xnli-LANG-{split}" if language else None,
        schema=DataSetSchema(
            columns=Columns("sentence1", "sentence2", "gold_label"),
            slices=() if language else ("language",),
        ),
    )


def _xnli_train(language: str) -> Entry:
    filename = f"multinli.train.{language}.tsv"
    return Entry(
        name=f"xnli-{language}",
        kind="dataset",
        about=f"XNLI train, {language}: MultiNLI's 392,702 pairs"
        + (", translated by machine" if language != "en" else ""),
        licence="CC BY-NC 4.0",
        verified_by="sha256 of XNLI-MT-1.0.zip",
        size=100_000_000,
        files={filename: None},
        sources=(Unpacked(_XNLI_MT_ZIP, {f"multinli/{filename}": filename}),),
        paper=_XNLI_PAPER,
        language=language,
        listed_as="xnli-LANG",
        schema=DataSetSchema(
            columns=Columns("premise", "hypo", "label"), label_names={"contradictory": "contradiction"}
        ),
    )


def _chinese(name: str, about: str, archive: Archive, member: str, size: int, *, licence: str, paper: str) -> Entry:
    split = name.partition("-")[2] or "train"
    filename = f"{name.partition('-')[0]}_{split}.jsonl"
    return Entry(
        name=name,
        kind="dataset",
        about=f"{about}, {split}",
        licence=licence,
        verified_by=f"sha256 of {archive.filename}",
        size=size,
        files={filename: None},
        sources=(Unpacked(archive, {member: filename}),),
        paper=paper,
        language="zh",
        schema=DataSetSchema(columns=Columns("sentence1", "sentence2", "label")),
    )


def _both(
    name: str, about: str, archive: Archive, members: tuple[str, str], sizes: tuple[int, int], **more: str
) -> Iterator[Entry]:
    for split, member, size in zip(("", "-dev"), members, sizes, strict=True):
        yield _chinese(f"{name}{split}", about, archive, member, size, **more)


ENTRIES = (
    _xnli(None, "dev", 2_490, size=1_300_000),
    _xnli(None, "test", 5_010, size=2_600_000),
    *(_xnli_train(language) for language in XNLI_LANGUAGES),
    *(_xnli(language, "dev", 2_490, size=1_300_000) for language in XNLI_LANGUAGES),
    *(_xnli(language, "test", 5_010, size=2_600_000) for language in XNLI_LANGUAGES),
    *_both(
        "ocnli",
        "OCNLI, Chinese from the start",
        _OCNLI_ZIP,
        ("data/ocnli/train.50k.json", "data/ocnli/dev.json"),
        (14_000_000, 1_000_000),
        licence="CC BY-NC 2.0",
        paper="Hu et al. 2020, https://aclanthology.org/2020.findings-emnlp.314",
    ),
    *_both(
        "cmnli",
        "CMNLI: MultiNLI and XNLI in Chinese, by machine",
        _CMNLI_ZIP,
        ("train.json", "dev.json"),
        (90_000_000, 3_000_000),
        licence="not stated; XNLI's is CC BY-NC 4.0",
        paper="Xu et al. 2020, https://aclanthology.org/2020.coling-main.419",
    ),
)
