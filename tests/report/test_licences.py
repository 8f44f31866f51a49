"""Licence and disclosure go along with a model: from the catalogue, a card, a run, a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bertnli_export.bundle import Bundle

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.fetch import catalog
from bertnli.fetch.cache import folder_of
from bertnli.report import licences
from bertnli.report.licences import UNKNOWN, LicenceInfo, notes_about, of_model
from bertnli.report.model_card import write_model_card
from tests.support.runs import train


def folder(path: Path, **files: object) -> Path:
    """`README_md="…"` becomes README.md; what is no text is written as JSON."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("_", ".")).write_text(text)
    return path


def test_of_a_name_the_catalogue_says() -> None:
    minilm = catalog.CATALOG["minilm"]
    assert of_model("minilm") == LicenceInfo(minilm.licence, minilm.disclosure)
    assert of_model("sentence-transformers/all-MiniLM-L6-v2") == of_model("minilm"), "the same model by its hub id"
    assert of_model("snli-test") == of_model("no such name") == UNKNOWN


def test_of_a_hub_id_its_card_says_once_it_is_fetched() -> None:
    assert of_model("someone/their-bert") == LicenceInfo(catalog.AS_ITS_CARD_SAYS)
    entry = catalog.lookup("someone/their-bert")
    folder(folder_of(entry), README_md="---\nlicense: mit\n---\n", receipt_json={"licence": catalog.AS_ITS_CARD_SAYS})
    assert of_model("someone/their-bert") == LicenceInfo("mit")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [bert]\n---\n# Title\n", "apache-2.0"),
        ("---\nlicense: [mit, cc-by-sa-4.0]\n---\n", "mit, cc-by-sa-4.0"),
        ("---\nlicense: other\nlicense_name: my-own\n---\n", "my-own"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense: 3\n---\n", None),
        ("---\n- a list\n---\n", None),
        ("---\n{ no: [yaml\n---\n", None),
        ("license: mit\n", None),
        ("", None),
    ],
)
def test_of_a_folder_its_card_says(card, licence, tmp_path) -> None:
    assert of_model(str(folder(tmp_path / "model", README_md=card))) == LicenceInfo(licence)


def test_a_folder_with_a_hub_ids_name_is_a_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "runs" / "model")
    folder(tmp_path / "minilm", README_md="---\nlicense: mit\n---\n")
    assert of_model("runs/model") == UNKNOWN
    assert of_model("minilm") == LicenceInfo("mit")


def test_what_we_noted_comes_before_the_card(tmp_path) -> None:
    noted = {"licence": "Apache-2.0", "disclosure": "It has seen the test."}
    for name, file in {"trained": "config_json", "bundle": "manifest_json", "fetched": "receipt_json"}.items():
        content = {"config_json": {"bertnli": noted}, "manifest_json": {"origin": noted}}.get(file, noted)
        made = folder(tmp_path / name, README_md="---\nlicense: mit\n---\n", **{file: content})
        assert of_model(str(made)) == LicenceInfo("Apache-2.0", "It has seen the test."), name
    folder(tmp_path / "trained", config_json={"bertnli": {"licence": 3}})
    with pytest.raises(InputError, match="trained: licence and disclosure; found 3"):
        of_model(str(tmp_path / "trained"))
    folder(tmp_path / "trained", config_json="{")
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        of_model(str(tmp_path / "trained"))


def test_a_model_trained_from_a_trained_one_keeps_its_disclosure(tmp_path) -> None:
    noted = {"licence": "Apache-2.0", "disclosure": "It has seen the test."}
    first = folder(tmp_path / "first", config_json={"bertnli": noted})
    assert notes_about(str(first), []) == [f"{first}: Licence: Apache-2.0.", "It has seen the test."]
    known = {"family": "bert", "outputs": Outputs(("a", "b")), "data": [], "settings": {}}
    write_model_card(tmp_path / "second", name="second", base_model=str(first), **known)
    assert licences.of_model(str(tmp_path / "second")).licence == "apache-2.0"


def test_from_the_start_of_a_run_to_the_bundle(run, ranks, command, tmp_path) -> None:
    """`run/model` has the form of a hub id, too."""
    file = run(max_steps=1)
    config = json.loads((tmp_path / "start" / "config.json").read_text())
    config["bertnli"] |= {"licence": "Apache-2.0", "disclosure": "It has seen the test."}
    (tmp_path / "start" / "config.json").write_text(json.dumps(config))
    train(file, ranks)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "license: apache-2.0" in card and "It has seen the test." in card
    done = command("export", "run/model", "repository", "--layout", "triton")
    assert done.returncode == 0, done.stderr
    origin = Bundle.open(tmp_path / "repository" / "nli").manifest.origin
    assert (origin.name, origin.licence, origin.disclosure) == ("run/model", "Apache-2.0", "It has seen the test.")
