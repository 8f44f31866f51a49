"""Which files are partitions, of a folder here and of one in a store, and where their scores go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bertnli_export.partitions import Partition, find_partitions

from bertnli.common.errors import InputError, RunError
from tests.support.memory_store import failing, memory_store

NAMES = ("a.tsv", "b.csv.gz", "year=2024/a.parquet", "_SUCCESS", ".a.tsv.crc", "_old/a.tsv")


class Place:
    """A folder for files: of this machine, or of a store."""

    def __init__(self, root: str, store: Any):
        self.root, self._store = root, store

    def __call__(self, name: str) -> str:
        return f"{self.root}/{name}"

    def put(self, name: str, content: bytes = b"x") -> None:
        if self.root.startswith("memory:"):
            self._store.pipe_file(self(name), content)
        else:
            path = Path(self(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def outputs(self, found: list[Partition]) -> list[str]:
        return [partition.output.removeprefix(f"{self.root}/") for partition in found]


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with memory_store(monkeypatch) as files:
        yield files


@pytest.fixture(params=["here", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, store: Any) -> Place:
    """Its folder `in` has partitions in several formats, and files that are none."""
    found = Place(str(tmp_path) if request.param == "here" else "memory://bucket", store)
    for name in NAMES:
        found.put(f"in/{name}", b"x" * (9 if name == "b.csv.gz" else 1))
    return found


@pytest.fixture
def here(tmp_path: Path, store: Any) -> Place:
    return Place(str(tmp_path), store)


@pytest.fixture
def there(store: Any) -> Place:
    return Place("memory://bucket", store)


def test_a_folder_is_its_files_the_largest_first(place: Place) -> None:
    expected = [
        Partition(place(f"in/{name}"), place(f"out/{name}")) for name in ("b.csv.gz", "a.tsv", "year=2024/a.parquet")
    ]
    assert find_partitions(place("in"), place("out")) == expected
    assert find_partitions(place("in/"), place("out/")) == expected


def test_a_folder_to_a_url_and_the_reverse(place: Place, here: Place, there: Place) -> None:
    other = there if place.root == here.root else here
    found = find_partitions(place("in"), other("scores"))
    assert found[0] == Partition(place("in/b.csv.gz"), other("scores/b.csv.gz"))
    assert len(found) == 3


def test_a_glob_keeps_the_folders_behind_its_first_wildcard(place: Place) -> None:
    def outputs(pattern: str) -> list[str]:
        return place.outputs(find_partitions(place(pattern), place("out")))

    assert outputs("in/*/*.parquet") == ["out/year=2024/a.parquet"]
    assert outputs("in/**/a.*") == ["out/a.tsv", "out/year=2024/a.parquet"]
    assert outputs("in/[a].tsv") == ["out/a.tsv"]
    assert outputs("in/a.tsv") == ["out/a.tsv"]
    assert outputs("in/year=2024") == ["out/a.parquet"]


def test_a_relative_glob(tmp_path: Path, here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    here.put("in/year=2024/a.parquet")
    monkeypatch.chdir(tmp_path)
    assert find_partitions("in/*/*.parquet", "out") == [
        Partition(here("in/year=2024/a.parquet"), here("out/year=2024/a.parquet"))
    ]


def test_wildcards_in_names_are_characters_if_such_a_folder_exists(place: Place) -> None:
    place.put("in[1]/a.tsv")
    assert place.outputs(find_partitions(place("in[1]"), place("out"))) == ["out/a.tsv"]
    place.put("out[1]/gone.csv")
    with pytest.raises(InputError, match=r"gone\.csv: no partition of the input has this output"):
        find_partitions(place("in"), place("out[1]"))


def test_links_to_folders_are_followed(here: Place, tmp_path: Path) -> None:
    here.put("data/b.tsv")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "data")
    assert here.outputs(find_partitions(here("in"), here("out"))) == ["out/linked/b.tsv"]


def test_a_file_that_is_not_read_is_named_and_not_passed_over(place: Place) -> None:
    place.put("in/c.orc")
    with pytest.raises(InputError, match=r"in/c\.orc: unknown format; .* exclude it with a glob"):
        find_partitions(place("in"), place("out"))
    assert len(find_partitions(place("in/*.tsv"), place("out"))) == 1


def test_scores_of_arrow_are_parquet_and_take_the_place_of_no_other(place: Place) -> None:
    place.put("in/year=2024/b.arrow")
    assert place.outputs(find_partitions(place("in/*/b*"), place("out"))) == ["out/year=2024/b.parquet"]
    place.put("in/year=2024/a.feather")
    with pytest.raises(InputError, match=r"has the same output as .*; give one of them another name"):
        find_partitions(place("in"), place("out"))


@pytest.mark.parametrize("input", ["none", "none/*.tsv", "in/*.jsonl", "hidden"])
def test_no_partitions_are_an_error(place: Place, input: str) -> None:
    place.put("hidden/_a.tsv")
    with pytest.raises(InputError, match=f"{input}: no partition files".replace("*", r"\*")):
        find_partitions(place(input), place("out"))


@pytest.mark.parametrize(("input", "output"), [("in", "in"), ("in", "in/out"), ("in/*.tsv", "in"), ("in/a.tsv", "in")])
def test_an_output_in_the_input_would_be_scored_the_next_time(place: Place, input: str, output: str) -> None:
    with pytest.raises(InputError, match=f"{output}: is inside the input"):
        find_partitions(place(input), place(output))


def test_a_folder_whose_name_begins_like_the_inputs_is_outside(place: Place) -> None:
    assert len(find_partitions(place("in"), place("in2"))) == 3


def test_an_output_that_is_a_file_is_refused(place: Place) -> None:
    place.put("out.tsv")
    with pytest.raises(InputError, match=r"out\.tsv: a file; expected with --ray, a folder"):
        find_partitions(place("in"), place("out.tsv"))


def test_rows_of_a_partition_that_is_gone_do_not_stay_in_the_output(place: Place) -> None:
    for name in ("a.tsv", "_a.tsv.run.json", "a.tsv.partial", "year.parquet.partial.parquet", "notes.md"):
        place.put(f"out/{name}")
    assert len(find_partitions(place("in"), place("out"))) == 3
    place.put("out/gone.csv")
    with pytest.raises(InputError, match=r"gone\.csv: no partition of the input has this output"):
        find_partitions(place("in"), place("out"))


# --- stores alone


def test_empty_objects_in_place_of_folders_are_no_files(there: Place, store: Any) -> None:
    for name in ("in/a.tsv", "in/sub/b.tsv"):
        there.put(name)
    there.put("in/sub", b"")
    there.put("in/other", b"")
    store.store["/bucket/in/other/"] = store.store.pop("/bucket/in/other")
    assert there.outputs(find_partitions(there("in"), there("out"))) == ["out/a.tsv", "out/sub/b.tsv"]
    there.put("in/empty", b"")
    with pytest.raises(InputError, match="in/empty: unknown format"):
        find_partitions(there("in"), there("out"))


@pytest.mark.parametrize(
    ("input", "output", "message"),
    [
        ("https://host/in", "out", "https://host/in: a web server, whose files cannot be listed; .* without --ray"),
        ("in", "https://host/out", "https://host/out: a web server, whose files cannot be listed"),
        ("memory://me:secret@bucket/in", "out", "memory://bucket/in: a user, a password or a query in the URL"),
        ("memory://bucket/in?sig=secret", "out", "memory://bucket/in: a user, a password or a query in the URL"),
        ("in", "memory://me:secret@bucket/out", "memory://bucket/out: a user, a password or a query in the URL"),
        ("memory://bucket/in#1", "out", "memory://bucket/in: a # in the URL"),
        ("memory://buck*/in", "out", "names no bucket; expected a URL as in s3://bucket"),
        ("ftp://host/in", "out", "ftp://host/in: a kind of URL that is not read"),
    ],
)
def test_urls_that_cannot_be_used_are_refused(
    here: Place, monkeypatch: pytest.MonkeyPatch, input: str, output: str, message: str
) -> None:
    here.put("in/a.tsv")
    monkeypatch.chdir(here.root)
    with pytest.raises(InputError, match=message) as raised:
        find_partitions(input, output)
    assert "secret" not in str(raised.value)
    assert sorted(path.name for path in Path(here.root).iterdir()) == ["in"], "no folder of such a name is made"


def test_names_that_no_url_has_are_named(place: Place, there: Place) -> None:
    place.put("in/a#1.tsv")
    with pytest.raises(InputError, match=r"/a#1\.tsv: a # in its name; give it another name"):
        find_partitions(place("in"), there("out"))


def test_a_store_that_fails_is_tried_again_and_ends_in_an_error(
    there: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.put("in/a.tsv")
    with monkeypatch.context() as patch:
        failing(patch, "find", [OSError("503")])
        assert len(find_partitions(there("in"), tmp_path / "out")) == 1
    failing(monkeypatch, "find", [OSError("503 Slow Down")] * 5)
    with pytest.raises(RunError, match="memory://bucket/in: the store fails: 503 Slow Down"):
        find_partitions(there("in"), tmp_path / "out")


# --- folders of save_to_disk


def save(place: Place, folder: str, **state: Any) -> None:
    place.put(f"{folder}/data-00000-of-00002.arrow", b"x" * 50)
    place.put(f"{folder}/data-00001-of-00002.arrow", b"x" * 50)
    place.put(f"{folder}/cache-1.arrow", b"x" * 500)
    place.put(f"{folder}/dataset_info.json", b"{}")
    files = [{"filename": f"data-0000{number}-of-00002.arrow"} for number in range(2)]
    place.put(f"{folder}/state.json", json.dumps({"_data_files": files, **state}).encode())


def test_each_saved_folder_is_one_partition(here: Place) -> None:
    save(here, "in/one")
    save(here, "in/both/train")
    save(here, "in/both/test")
    here.put("in/both/dataset_dict.json", b'{"splits": ["train", "test"]}')
    here.put("in/large.tsv", b"x" * 101)
    here.put("in/small.tsv", b"x" * 99)
    here.put("in/notes/state.json", b'{"premise": "a"}')
    expected = [
        Partition(here("in/large.tsv"), here("out/large.tsv")),
        Partition(here("in/both/test"), here("out/both/test.parquet")),
        Partition(here("in/both/train"), here("out/both/train.parquet")),
        Partition(here("in/one"), here("out/one.parquet")),
        Partition(here("in/small.tsv"), here("out/small.tsv")),
        Partition(here("in/notes/state.json"), here("out/notes/state.json")),
    ]
    assert find_partitions(here("in"), here("out")) == expected
    assert find_partitions(here("in/both"), here("out")) == [
        Partition(here(f"in/both/{name}"), here(f"out/{name}.parquet")) for name in ("test", "train")
    ]
    assert find_partitions(here("in/one"), here("out")) == [Partition(here("in/one"), here("out/one.parquet"))]
    assert here.outputs(find_partitions(here("in/o*"), here("out"))) == ["out/one.parquet"]
    arrow = find_partitions(here("in/one/data*.arrow"), here("out"))
    assert [Path(name).name for name in here.outputs(arrow)] == [f"data-0000{n}-of-00002.parquet" for n in range(2)]
    save(here, "in/broken", _data_files=[{"filename": "gone.arrow"}])
    with pytest.raises(InputError, match=r"gone\.arrow: no such file"):
        find_partitions(here("in"), here("out"))


def test_a_saved_folder_in_a_store_is_refused_with_what_to_do(there: Place, here: Place) -> None:
    save(there, "in/one")
    with pytest.raises(InputError, match=r"in/one: a folder of Dataset\.save_to_disk, in a store; .*to_parquet"):
        find_partitions(there("in"), here("out"))
    arrow = find_partitions(there("in/*/data*.arrow"), here("out"))
    assert here.outputs(arrow) == [f"out/one/data-0000{n}-of-00002.parquet" for n in range(2)]
