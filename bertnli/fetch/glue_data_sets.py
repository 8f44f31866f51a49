"""The catalogue's data sets from GLUE (Wang et al. 2019, https://arxiv.org/abs/1804.07461).

The checksums are those that the datasets library recorded. GLUE keeps the labels of its test splits to itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from bertnli.data.columns import Columns
from bertnli.fetch.entry import Archive, DataSetSchema, Entry, Unpacked


def _splits(
    name: str,
    about: str,
    archive: Archive,
    folder: str,
    rows: tuple[str, str],
    sizes: tuple[int, int],
    *,
    licence: str,
    paper: str,
    schema: DataSetSchema,
) -> Iterator[Entry]:
    """train, which has the task's `name`, and dev. rows, sizes: of these two."""
    for split, count, size in zip(("train", "dev"), rows, sizes, strict=True):
        filename = f"{name}_{split}.tsv"
        yield Entry(
            name=name if split == "train" else f"{name}-{split}",
            kind="dataset",
            about=f"{about}, {split}: {count} pairs",
            licence=licence,
            verified_by=f"sha256 of {archive.filename}",
            size=size,
            files={filename: None},
            sources=(Unpacked(archive, {f"{folder}/{split}.tsv": filename}),),
            paper=paper,
            schema=schema,
        )


def _archive(filename: str, size: int, sha256: str) -> Archive:
    return Archive(
        filename=filename,
        checksum=f"sha256:{sha256}",
        unpacked_limit=500_000_000,
        size=size,
        url=f"https://dl.fbaipublicfiles.com/glue/data/{filename}",
    )


ENTRIES = (
    *_splits(
        "qqp",
        "Quora question pairs, duplicate or not",
        _archive("QQP-clean.zip", 41_696_084, "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
        "QQP",
        ("363,846", "40,430"),
        (58_000_000, 6_500_000),
        licence="Quora's terms of service; for non-commercial use",
        paper="Iyer et al. 2017, https://quoradata.quora.com/First-Quora-Dataset-Release-Question-Pairs",
        schema=DataSetSchema(
            columns=Columns("question1", "question2", "is_duplicate"),
            label_names={"0": "not_duplicate", "1": "duplicate"},
        ),
    ),
    *_splits(
        "stsb",
        "the Semantic Textual Similarity benchmark, scores from 0 to 5",
        _archive("STS-B.zip", 802_872, "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
        "STS-B",
        ("5,749", "1,500"),
        (1_000_000, 300_000),
        licence="those of its sources, as its LICENSE.txt lists them",
        paper="Cer et al. 2017, https://aclanthology.org/S17-2001",
        schema=DataSetSchema(columns=Columns("sentence1", "sentence2", "score")),
    ),
    *_splits(
        "rte",
        "Recognizing Textual Entailment 1, 2, 3 and 5, two classes",
        _archive("RTE.zip", 697_150, "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
        "RTE",
        ("2,490", "277"),
        (900_000, 100_000),
        licence="not stated",
        paper="Wang et al. 2019, https://arxiv.org/abs/1804.07461",
        schema=DataSetSchema(columns=Columns("sentence1", "sentence2", "label")),
    ),
    *_splits(
        "qnli",
        "SQuAD's questions with sentences that answer them or not, two classes",
        _archive("QNLIv2.zip", 10_627_589, "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
        "QNLI",
        ("104,743", "5,463"),
        (27_000_000, 1_400_000),
        licence="CC BY-SA 4.0",
        paper="Wang et al. 2019, https://arxiv.org/abs/1804.07461",
        schema=DataSetSchema(columns=Columns("question", "sentence", "label")),
    ),
)
