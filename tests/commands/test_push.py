"""`bertnli push`, through huggingface_hub against a hub of this machine: a whole model in one commit, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bertnli_export.scorer import Scorer
from huggingface_hub import constants, metadata_load

from bertnli.commands.push import push
from bertnli.common.errors import InputError, RunError
from bertnli.model import pretrained
from tests.support import hub_repositories, tiny
from tests.support.hub_repositories import TOKEN, Hub

REPO = "org/name"


class _Forever(dict[str, int | None]):
    """Every request fails, not only the first."""

    def pop(self, key: str) -> int | None:  # type: ignore[override]
        return self[key]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_repositories.serving(tmp_path, monkeypatch) as serving:
        yield serving


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.hf_folder(tmp_path_factory.mktemp("pushed") / "model")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    (folder / "notes.txt").write_text("not for others")
    return folder


def written(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_model_folder_becomes_one_commit_that_loads(hub, model, tmp_path, capsys) -> None:
    summary = push(str(model), REPO)
    _, commit = hub.commits(REPO)
    assert hub.repositories[REPO].private
    assert summary == {
        "repository": f"{hub.url}/{REPO}",
        "commit": commit.oid,
        "new": True,
        "private": True,
        "files": 6,
    }
    assert commit.message == "Push model with bertnli"
    read = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "README.md"}
    assert commit.files.keys() == read | {".gitattributes"}
    assert all(commit.files[name] == (model / name).read_bytes() for name in read)
    assert pretrained.load(written(commit.files, tmp_path / "got")).sha256 == pretrained.load(model).sha256
    assert TOKEN not in capsys.readouterr().err


def test_the_same_again_makes_no_commit(hub, model) -> None:
    first = push(str(model), REPO)
    uploads = len(hub.uploads)
    again = push(str(model), REPO)
    assert (again["new"], again["commit"], len(hub.commits(REPO))) == (False, first["commit"], 2)
    assert again["note"] == "nothing had changed, so there is no new commit"
    assert len(hub.uploads) == uploads


def test_a_bundle_comes_with_a_card_and_is_still_a_bundle(hub, tmp_path) -> None:
    push(str(tiny.bundle()), REPO, private=False, message="The first")
    [_, commit] = hub.commits(REPO)
    assert (commit.message, hub.repositories[REPO].private) == ("The first", False)
    got = written(commit.files, tmp_path / "got")
    assert not (tiny.bundle() / "README.md").exists()
    front = metadata_load(got / "README.md")
    assert (front["pipeline_tag"], front["tags"]) == ("text-classification", ["onnx", "bert", "bertnli"])
    text = (got / "README.md").read_text()
    assert "| 2 | contradiction |" in text and "| model.onnx | fp32 | 23 |" in text.replace("\\", "")
    pairs = [("A man run.", "Two dogs run.")]
    assert Scorer(got, "cpu").score(pairs) == Scorer(tiny.bundle(), "cpu").score(pairs)


def test_a_branch_is_made_and_main_stays_as_it_is(hub, model) -> None:
    push(str(model), REPO, revision="v2")
    assert [len(hub.commits(REPO, branch)) for branch in ("main", "v2")] == [1, 2]


def test_other_files_of_the_repository_are_named_and_removed_only_on_request(hub, model) -> None:
    push(str(tiny.bundle()), REPO)
    with pytest.raises(InputError, match=r"other files.*found manifest\.json, model\.onnx, parity\.npz; .*--delete-o"):
        push(str(model), REPO)
    assert len(hub.commits(REPO)) == 2
    push(str(model), REPO, delete_others=True)
    assert len(hub.commits(REPO)) == 3
    assert "model.onnx" not in hub.commits(REPO)[-1].files and ".gitattributes" in hub.commits(REPO)[-1].files


@pytest.mark.parametrize(
    ("where", "status"), [("/storage/", 500), ("/storage/", None), ("/storage/", 403), ("/commit/", 500)]
)
def test_a_push_that_breaks_off_leaves_no_half_commit_and_can_be_given_again(hub, model, where, status) -> None:
    for _ in range(2):  # huggingface_hub tries some requests again by itself
        hub.fails = _Forever({where: status})
        with pytest.raises(RunError, match=r"org/name: broke off, and the repository has all of it or nothing"):
            push(str(model), REPO)
        assert len(hub.commits(REPO)) == 1
    hub.fails = {}
    before = len(hub.uploads)
    assert push(str(model), REPO)["new"]
    assert len(hub.commits(REPO)) == 2
    assert where == "/storage/" or len(hub.uploads) == before, "what was uploaded is uploaded again"


@pytest.mark.parametrize(
    ("where", "status", "message"),
    [
        ("/storage/", 413, "found HTTP 413 Request Entity Too Large; push a smaller model, or ask the hub"),
        ("/commit/", 400, "found HTTP 400 Bad Request, as told; change what it refuses"),
        ("/repos/create", 402, "found HTTP 402 Payment Required, as told"),
        ("/commit/", 422, "found HTTP 422 Unprocessable Entity, as told"),
    ],
)
def test_what_the_hub_refuses_is_not_to_be_given_again(hub, model, where, status, message) -> None:
    hub.fails = _Forever({where: status})
    with pytest.raises(InputError, match=f"org/name: the hub refuses it, and nothing was changed; {message}"):
        push(str(model), REPO)


def test_what_another_pushed_in_the_meantime_stays(hub, model) -> None:
    push(str(model), REPO)
    hub.fails = {"/commit/": 412}
    shorter = {**json.loads((model / "config.json").read_text()), "note": 1}
    other = shutil.copytree(model, model.parent / "other")
    (other / "config.json").write_text(json.dumps(shorter))
    with pytest.raises(RunError, match="somebody else pushed in the meantime; nothing was changed"):
        push(str(other), REPO)
    assert len(hub.commits(REPO)) == 2


def test_what_the_hub_has_is_compared_with_what_was_pushed(hub, model, monkeypatch) -> None:
    real = hub_repositories.blob
    monkeypatch.setattr(hub_repositories, "blob", lambda content: real(content + b" "))
    with pytest.raises(RunError, match=r"is not what was pushed: wrong checksum of \S+: found git blob"):
        push(str(model), REPO)


def test_a_visibility_that_is_not_the_repositorys_is_refused(hub, model) -> None:
    push(str(model), REPO)
    with pytest.raises(InputError, match="the repository is private; expected public"):
        push(str(model), REPO, private=False)


def test_what_is_not_whole_is_refused_before_anything_is_sent(hub, model, tmp_path) -> None:
    damaged = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    content = bytearray((damaged / "model.onnx").read_bytes())
    content[-10] ^= 1
    (damaged / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx: not the file that was exported; found SHA-256"):
        push(str(damaged), REPO)
    cut = shutil.copytree(model, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        push(str(cut), REPO)
    (cut / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cut"):
        push(str(cut), REPO)
    for given in (tmp_path / "none", model / "config.json"):
        with pytest.raises(InputError, match="expected the folder of a model, of a finished run or of a bundle"):
            push(str(given), REPO)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["name", "org/name/more", "org/na me", ""])
def test_a_name_that_cannot_be_is_refused(hub, model, name) -> None:
    with pytest.raises(InputError, match="expected a repository's name, org/name"):
        push(str(model), name)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, r"org/name: no token; set HF_TOKEN to one with write access, or log in with `hf auth login`"),
        ("hf_anotherSecret", r"org/name: the hub does not accept the token in HF_TOKEN or of `hf auth login`"),
    ],
)
def test_a_token_that_is_missing_or_not_accepted(model, tmp_path, monkeypatch, token, message) -> None:
    with hub_repositories.serving(tmp_path, monkeypatch, token) as serving:
        with pytest.raises(InputError, match=message) as raised:
            push(str(model), REPO)
        assert serving.repositories == {}
    assert "hf_anotherSecret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HF_HUB_OFFLINE", True, "HF_HUB_OFFLINE is set, so the hub may not be asked; unset it"),
        ("ENDPOINT", "hub.example", "HF_ENDPOINT; found 'hub.example'; expected https://"),
        ("HF_TOKEN", "hf_é", "`hf auth login`; found characters that no token has; set HF_TOKEN"),
    ],
)
def test_settings_with_which_no_push_can_succeed(hub, model, monkeypatch, name, value, message) -> None:
    if name == "HF_TOKEN":
        monkeypatch.setenv(name, value)
    else:
        monkeypatch.setattr(constants, name, value)
    with pytest.raises(InputError, match=f"push to org/name: .*{message}") as raised:
        push(str(model), REPO)
    assert hub.requests == [] and "é" not in str(raised.value)


def test_a_branch_needs_a_name(hub, model) -> None:
    with pytest.raises(InputError, match="--revision; found ''; expected a branch's name"):
        push(str(model), REPO, revision="")


def test_d2l_weights_of_the_book_are_pushed_as_a_bundle(hub, tmp_path) -> None:
    (tmp_path / "vocab.json").write_text("[]")
    with pytest.raises(InputError, match=r"do not say their architecture; .*bertnli export \S+ OUT --arch bert.small"):
        push(str(tmp_path), REPO)
    assert hub.requests == []


def test_no_permission_is_named(hub, model) -> None:
    hub.fails = {"/repos/create": 403}
    with pytest.raises(InputError, match=r"the hub forbids it; found the token .* without write access there"):
        push(str(model), REPO)


def test_the_command(bertnli, hub, model) -> None:
    env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    done = bertnli("push", model, REPO, "--public", "--message", "By hand", "--json", env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["new"], found["private"], found["commit"]) == (True, False, hub.commits(REPO)[-1].oid)
    assert "pushing 6 files" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
