"""A model's way from the hub: what says whether it runs comes first, and only what is needed; revisions; one copy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError, RunError
from bertnli.families import folder_config
from bertnli.fetch import cache, catalog, download, hub_repository, known_repositories, model_hub
from bertnli.fetch.entry import HubModel, SourceError
from bertnli.fetch.resolve import fetch as fetch_any
from bertnli.fetch.resolve import resolve_model
from tests.support import hub_stand_in, tiny
from tests.support.http_stand_in import Hosted, StandIn

BERT = tiny.hub_files()
WEIGHTS = BERT["model.safetensors"]


fetch = partial(fetch_any, parse_config=folder_config.parse)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(cache, "LARGE", len(WEIGHTS))
    monkeypatch.setattr(hub_repository, "LARGE", len(WEIGHTS))
    with hub_stand_in.serving(tmp_path, monkeypatch) as stand_in:
        yield stand_in


# --- before the weights


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"model_type": "bart"}, ["'bart': BART", "take one of equal use that runs, such as"]),
        ({"model_type": "t5"}, ["'t5': T5"]),
        ({"model_type": "deberta"}, ["DeBERTa of version 1"]),
        ({"model_type": "qwen3"}, ["Qwen, a language model"]),
        ({"model_type": "gemma2"}, ["Gemma, a language model"]),
        ({"model_type": "xlnet"}, ["XLNet"]),
        ({"model_type": "gpt2"}, ["GPT-2"]),
        ({"model_type": "longformer"}, ["Longformer"]),
        ({"model_type": "big_bird"}, ["BigBird"]),
        ({"model_type": "nomic_bert", "auto_map": {"AutoModel": "x.Y"}}, ["Nomic BERT"]),
        ({"model_type": "bert", "auto_map": {"AutoModel": "x.Y"}}, ["code of its own, {'AutoModel': 'x.Y'}"]),
        ({"model_type": ..., "auto_map": {"AutoModel": "x.Y"}}, ["code of its own, {'AutoModel': 'x.Y'}"]),
        ({"position_embedding_type": "alibi", "auto_map": {"AutoModel": "x.Y"}}, ["code of its own"]),
        ({"model_type": "of_tomorrow"}, ["'of_tomorrow'", "expected one that runs: bert"]),
        ({"model_type": ..., "architecture": "resnet50", "num_features": 9}, ["a model of timm, resnet50"]),
        ({"model_type": ..., "peft_type": "LORA"}, ["a PEFT adapter"]),
        ({"model_type": ...}, ["key model_type is missing"]),
        ({"quantization_config": {"load_in_8bit": True}}, ["quantised from"]),
        ({"architectures": ["BertForTokenClassification"]}, ["a sequence classifier or an encoder"]),
        ({"hidden_size": 33}, ["a multiple of num_attention_heads"]),
        ({"problem_type": "ranking"}, ["'ranking'"]),
        ({"sentence_transformers": {"activation_fn": "my.Code"}}, ["'my.Code'"]),
        ({"id2label": {"0": "a", "2": "b"}}, ["id2label"]),
    ],
)
def test_what_cannot_run_is_refused_by_its_config_alone(
    hub: StandIn, keys: dict[str, object], named: list[str], tmp_path: Path
) -> None:
    hub.add_model("org/model", tiny.hub_files(**keys))
    with pytest.raises(InputError, match=r"^model org/model/config\.json: key \w+") as caught:
        fetch("org/model")
    for part in named:
        assert part in str(caught.value)
    assert hub.resolved("org/model") == ["config.json"]
    assert not (tmp_path / "cache" / "hub" / "org" / "model").exists()


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "a PEFT adapter (LoRA)"),
        (["model-Q4_K_M.gguf", "config.json"], "llama.cpp's (GGUF); expected config.json with model.safetensors"),
        (["config.json", "onnx/model.onnx"], "onnx/model.onnx, which is ONNX"),
        (["config.json", "tf_model.h5"], "from_pretrained('org/name', from_tf=True)"),
        (["config.json", "flax_model.msgpack"], "Flax"),
        (["config.json", "openvino_model.xml"], "OpenVINO"),
        (["config.json", "model.fp16.safetensors"], "a variant of the weights"),
        (["manifest.json", "model.onnx", "config.json"], "hf download org/name --revision v1 --local-dir BUNDLE"),
        (["checkpoint-9/config.json", "checkpoint-9/model.safetensors"], "--include 'checkpoint-9/*'"),
        (["config_setfit.json", "model_head.pkl", "README.md"], "SetFit"),
        (["model_index.json", "unet/diffusion_pytorch_model.bin"], "diffusers"),
        (
            ["data/train.parquet", "README.md", ".gitattributes"],
            "not a model that transformers reads; found data/train",
        ),
        (["README.md"], "nothing but a description"),
        ([], "nothing but a description"),
    ],
)
def test_other_repositories_are_recognised_by_their_files(files: list[str], named: str) -> None:
    with pytest.raises(InputError) as caught:
        known_repositories.check("org/name@v1", files)
    assert named in str(caught.value)
    assert "model org/name@v1" in str(caught.value)


def test_a_repository_of_files_alone_costs_one_request(hub: StandIn) -> None:
    hub.add_model("org/lora", {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS})
    with pytest.raises(InputError, match="LoRA"):
        fetch("org/lora")
    assert [request.path for request in hub.requests] == ["/api/models/org/lora"]


def test_a_classifier_is_needed_to_measure_a_model_and_not_to_train_one(hub: StandIn) -> None:
    hub.add_model("org/encoder", tiny.hub_files(architectures=["BertModel"]))
    with pytest.raises(InputError, match=r"^model org/encoder/config\.json: no classifier .* found BertModel"):
        resolve_model("org/encoder", folder_config.parse_classifier)
    assert hub.resolved("org/encoder") == ["config.json"]
    assert resolve_model("org/encoder", folder_config.parse).path.is_dir()
    for classes in ([], None, ["BertForSequenceClassification"]):
        folder_config.parse_classifier(json.loads(tiny.hub_files(architectures=classes)["config.json"]), "config.json")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, ["BertJapaneseTokenizer"]),
        ({"auto_map": {"AutoTokenizer": ["my.Tokens", None]}}, ["code of its own"]),
        ({"tokenizer_class": "BertTokenizer", "unk_token": "[NONE]"}, ["[NONE]"]),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_refused_before_the_weights(
    hub: StandIn, settings: dict[str, object], named: list[str]
) -> None:
    hub.add_model("org/bert", BERT | {"tokenizer_config.json": json.dumps(settings).encode()})
    with pytest.raises(InputError, match=r"^model org/bert/\w+") as caught:
        fetch("org/bert")
    for part in named:
        assert part in str(caught.value)
    assert "partial" not in str(caught.value), "the folder is temporary"
    assert "model.safetensors" not in hub.resolved("org/bert")


def test_token_types_that_have_no_embedding_are_refused_before_the_weights(hub: StandIn) -> None:
    """As in klue/roberta-base. What the message says to do works."""
    config = json.loads(BERT["config.json"]) | {"type_vocab_size": 1}
    hub.add_model("org/klue", BERT | {"config.json": json.dumps(config).encode()})
    with pytest.raises(InputError, match=r"^model org/klue/config.json: key type_vocab_size; found 1, .*another type"):
        fetch("org/klue")
    assert "model.safetensors" not in hub.resolved("org/klue")
    settings = {"model_input_names": ["input_ids", "attention_mask"]}
    hub.add_model(
        "org/other",
        BERT | {"config.json": json.dumps(config).encode(), "tokenizer_config.json": json.dumps(settings).encode()},
    )
    assert (fetch("org/other") / "model.safetensors").is_file()


def test_no_tokenizer_at_all(hub: StandIn) -> None:
    hub.add_model("org/bert", {name: BERT[name] for name in ("config.json", "model.safetensors")})
    with pytest.raises(InputError, match=r"^model org/bert: no tokenizer"):
        fetch("org/bert")
    assert "model.safetensors" not in hub.resolved("org/bert")


# --- only what is needed

INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}


@pytest.mark.parametrize(
    ("there", "fetched"),
    [
        (["pytorch_model.bin", "model.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin", "rust_model.ot"], ["pytorch_model.bin"]),
        (
            ["model.safetensors.index.json", *INDEX["weight_map"].values(), "model-00001-of-00009.safetensors"],
            ["model.safetensors.index.json", *INDEX["weight_map"].values()],
        ),
        (["model.safetensors", "model.safetensors.index.json"], ["model.safetensors"]),
        (["training_args.bin", "optimizer.bin"], []),
    ],
)
def test_the_weights_that_are_read_and_no_others(there: list[str], fetched: list[str]) -> None:
    assert model_hub.weights(there, lambda name: INDEX) == fetched


@pytest.mark.parametrize(
    "index", [{}, [], {"weight_map": {}}, {"weight_map": {"a": 1}}, INDEX, {"weight_map": {"a": "../x"}}]
)
def test_an_index_of_files_that_are_not_there(index: object) -> None:
    with pytest.raises(SourceError, match=r"not an index|that are not there"):
        model_hub.weights(["model.safetensors.index.json"], lambda name: index)


def test_sentencepiece_only_where_there_is_no_tokenizer_json() -> None:
    files = ["sentencepiece.bpe.model", "vocab.json", "merges.txt", "tokenizer.json", "onnx/tokenizer.json"]
    assert model_hub.tokenizer(files) == ["vocab.json", "merges.txt", "tokenizer.json"]
    assert model_hub.tokenizer(["spm.model", "added_tokens.json"]) == ["spm.model", "added_tokens.json"]


# --- revisions


def test_a_revision_is_fetched_beside_the_main_branch_and_its_commit_is_kept(hub: StandIn) -> None:
    main = hub.add_model("org/bert", BERT)
    old = hub.add_model("org/bert", BERT | {"model.safetensors": WEIGHTS[::-1]}, revisions=("v1.0", "refs/pr/3"))
    for name, commit, weights in (
        ("org/bert", main, WEIGHTS),
        ("org/bert@v1.0", old, WEIGHTS[::-1]),
        ("org/bert@refs/pr/3", old, WEIGHTS[::-1]),
        (f"org/bert@{main}", main, WEIGHTS),
    ):
        path = resolve_model(name, folder_config.parse).path
        assert (path / "model.safetensors").read_bytes() == weights
        receipt = json.loads((path / "receipt.json").read_text())
        assert (receipt["name"], receipt["revision"]) == (name, commit)
        assert receipt["source"] == f"model hub, {name} at {commit}"
    asked = len(hub.requests)
    assert fetch("org/bert@refs/pr/3").name == "bert@refs%2Fpr%2F3"
    assert len(hub.requests) == asked, "what is in the cache is not asked for again"


def test_weights_that_were_changed_have_no_commit(hub: StandIn, tmp_path: Path) -> None:
    shards = {"a.safetensors": WEIGHTS[1:], "b.safetensors": WEIGHTS[2:]}
    index = json.dumps({"weight_map": dict(enumerate(shards))}).encode()
    several = {name: body for name, body in BERT.items() if name != "model.safetensors"} | shards
    for name, files in (("one", BERT), ("several", several | {"model.safetensors.index.json": index})):
        commit = hub.add_model(f"org/{name}", files)
        folder = fetch(f"org/{name}", to=tmp_path)
        weights = sorted(folder.glob("*.safetensors"))
        sha256 = hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()
        assert cache.commit_of(folder, sha256) == commit
        weights[-1].unlink()
        weights[-1].write_bytes(b"trained further")
        assert cache.commit_of(folder, hashlib.sha256(b"trained further").hexdigest()) is None
    (folder / "receipt.json").write_text("[1]")
    assert cache.commit_of(folder, "") is None
    assert cache.commit_of(tmp_path, "") is None


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("org/name", ("org/name", None)),
        ("org/name@main", ("org/name", "main")),
        ("org/na.me-1@refs/pr/12", ("org/na.me-1", "refs/pr/12")),
        ("org/name@v1.0+cu", ("org/name", "v1.0+cu")),
        *((text, None) for text in ("org/name@", "org/name@../x", "org/name@a..b", "org/name@/x", "org/name@x/")),
        *(
            (text, None)
            for text in ("org/name@a b", "org/name@a@b", "@main", "name@main", "./runs/a@b", "org/name@a//b")
        ),
    ],
)
def test_what_is_a_hub_id(name: str, parsed: tuple[str, str | None] | None) -> None:
    found = catalog.hub_model(name)
    assert (found and (found.repo, found.revision)) == parsed


@given(st.lists(st.text("ab/.@-+%_", min_size=1, max_size=9), min_size=2, max_size=2), st.text("ab/.-%", max_size=6))
def test_every_hub_id_has_a_folder_of_its_own_in_the_cache(revisions: list[str], name: str) -> None:
    ids = {f"o/n{name}@{revision}" for revision in revisions} | {f"o/n{name}"}
    folders = [cache.folder_of(entry) for one in ids if (entry := catalog.lookup(one)) is not None]
    assert len(set(folders)) == len(folders)
    for folder in folders:
        assert (
            folder.parent == cache.cache_dir() / "hub" / "o"
            and folder.name.startswith("n")
            and ".." not in folder.parts
        )


def test_a_catalogue_models_revision_has_its_disclosure_and_not_its_checksums() -> None:
    entry = catalog.lookup("sentence-transformers/all-MiniLM-L6-v2@v1")
    assert entry is not None and "SNLI" in str(entry.disclosure) and not any(entry.files.values())
    assert entry.sources == (HubModel("sentence-transformers/all-MiniLM-L6-v2", "v1"),)


def test_other_ways_to_write_a_hub_id_are_told_the_right_one(hub: StandIn) -> None:
    for written, told in (
        ("minilm@v1", "sentence-transformers/all-MiniLM-L6-v2@v1"),
        ("https://huggingface.co/org/bert", "org/bert"),
        ("roberta-base", "FacebookAI/roberta-base"),
        ("bert-large-cased@v1", "google-bert/bert-large-cased@v1"),
        ("distilroberta-base", "distilbert/distilroberta-base"),
        ("https://huggingface.co/org/bert/tree/v1", "org/bert@v1"),
    ):
        with pytest.raises(InputError, match=f"give its hub id: {told}$"):
            fetch(written)
        with pytest.raises(InputError, match=f"give its hub id: {told}$"):
            resolve_model(written, folder_config.parse)


def test_a_model_that_was_renamed(hub: StandIn) -> None:
    commit = hub.add_model("org/new", BERT)
    hub.files["/api/models/org/old"] = Hosted(location="/api/models/org/new")
    for name in BERT:
        hub.files[f"/org/old/resolve/{commit}/{name}"] = Hosted(location=f"/org/new/resolve/{commit}/{name}")
    assert (fetch("org/old") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_mirror_that_says_neither_commit_nor_checksums(hub: StandIn) -> None:
    commit = hub.add_model("org/it", BERT)
    siblings = [{"rfilename": name} for name in BERT]
    hub.files["/api/models/org/it"].body = json.dumps({"id": "org/it", "siblings": siblings}).encode()
    for name in BERT:
        hub.files[f"/org/it/resolve/main/{name}"] = hub.files.pop(f"/org/it/resolve/{commit}/{name}")
    assert (fetch("org/it") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_file_name_that_leads_out_of_the_folder_is_no_file_of_the_model(hub: StandIn, tmp_path: Path) -> None:
    bad = ["../escaped.safetensors", "sub/b.safetensors"]
    files = {name: body for name, body in BERT.items() if name != "model.safetensors"} | dict.fromkeys(bad, WEIGHTS)
    index = json.dumps({"weight_map": dict(enumerate(bad))}).encode()
    hub.add_model("org/it", files | {"model.safetensors.index.json": index})
    with pytest.raises(RunError, match="names files that are not there"):
        fetch("org/it")
    assert not list(tmp_path.rglob("*.safetensors"))


# --- what the hub answers


def gated(hub: StandIn) -> None:
    hub.add_model("org/it", BERT)
    for path, hosted in hub.files.items():
        if "/resolve/" in path:
            hosted.token, hosted.headers = "right", hosted.headers | {"X-Error-Code": "GatedRepo"}


def private(hub: StandIn) -> None:
    hub.add_model("org/it", BERT)
    for hosted in hub.files.values():
        hosted.token = "right"


def bad_token(hub: StandIn) -> None:
    hub.add_model("org/it", BERT)
    hub.files["/api/models/org/it"].always = 401
    hub.files["/api/models/org/it"].headers = {"X-Error-Message": "Invalid credentials in Authorization header"}


def forbidden(hub: StandIn) -> None:
    hub.add_model("org/it", BERT)
    hub.files["/api/models/org/it"].always = 403


def data_set(hub: StandIn) -> None:
    hub.add_model("org/it", {})
    hub.files["/api/datasets/org/it"] = hub.files.pop("/api/models/org/it")


def disabled(hub: StandIn) -> None:
    hub.add_model("org/it", BERT)
    hub.files["/api/models/org/it"].always = 403
    hub.files["/api/models/org/it"].headers = {"X-Error-Message": "Access to this resource is disabled."}


@pytest.mark.parametrize(
    ("prepare", "token", "named"),
    [
        (
            gated,
            None,
            "a gated model, and no token; accept its conditions on http://127.0.0.1:.*/org/it, and set HF_TOKEN",
        ),
        (
            gated,
            "wrong",
            "a gated model, and the token in HF_TOKEN .* has no access; accept|has no access to it; accept",
        ),
        (private, None, "no such model on the hub, or it is private; check the name; if it is private: set HF_TOKEN"),
        (bad_token, "wrong", "the hub does not accept the token in HF_TOKEN"),
        (forbidden, "weak", "lacks the permission"),
        (data_set, None, "a data set on the hub, not a model"),
        (disabled, None, "a model that the hub has disabled"),
    ],
)
def test_an_answer_that_stays_the_same_is_the_users_error(
    hub: StandIn,
    prepare: Callable[[StandIn], None],
    token: str | None,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(hub)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=f"model 'org/it'; found .*{named}"):
        fetch("org/it")
    assert "model.safetensors" not in hub.resolved("org/it")


def test_the_right_token_opens_a_gated_model(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    gated(hub)
    monkeypatch.setenv("HF_TOKEN", "right")
    assert (fetch("org/it") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_revision_that_does_not_exist(hub: StandIn) -> None:
    hub.add_model("org/it", BERT)
    with pytest.raises(InputError, match="model 'org/it@v9'; found no branch, tag or commit 'v9' in it; take one of"):
        fetch("org/it@v9")


def test_a_busy_hub_is_asked_again_and_not_for_ever(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_model("org/it", BERT)
    hub.files["/api/models/org/it"].status = [429, 503]
    hub.files["/api/models/org/it"].headers = {"Retry-After": "1"}
    assert fetch("org/it").is_dir()
    hub.add_model("org/other", BERT)
    hub.files["/api/models/org/other"].always = 429
    with pytest.raises(RunError, match="HTTP 429 Too Many Requests: wait, or set HF_TOKEN"):
        fetch("org/other")
    assert len(hub.asked("/api/models/org/other")) == 5
    hub.files["/api/models/org/other"].headers = {"Retry-After": "3600"}
    with pytest.raises(RunError, match="HTTP 429"):
        fetch("org/other")
    assert len(hub.asked("/api/models/org/other")) == 6, "an hour is too long to wait"
    hub.add_model("org/third", BERT | {"model.safetensors": WEIGHTS[1:]})
    weights = next(hosted for path, hosted in hub.files.items() if path.startswith("/org/third/") and "safet" in path)
    weights.status, weights.headers = [429], {"Retry-After": "7"}
    waits: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    assert fetch("org/third").is_dir()
    assert waits == [7.0]


def test_large_files_at_another_address_broken_off_and_continued(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "mine")
    hub.add_model("org/it", BERT, redirect=True)
    storage = next(hosted for path, hosted in hub.files.items() if path.startswith("/cdn/") and hosted.body == WEIGHTS)
    storage.cut_after = [4000] + [0] * 9  # more often than one call tries it
    with pytest.raises(RunError, match="The same command tries again, and continues"):
        fetch("org/it")
    storage.cut_after = []
    assert (fetch("org/it") / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.requests[-1].headers["range"] == "bytes=4000-"
    for request in hub.requests:
        assert ("authorization" in request.headers) is not request.path.startswith("/cdn/"), (
            "the token is the hub's alone"
        )


# --- one copy


def copies(tmp_path: Path) -> int:
    """How many copies of the weights the disk has under `tmp_path`."""
    return len({path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == WEIGHTS})


def test_the_weights_are_on_the_disk_once(hub: StandIn, tmp_path: Path) -> None:
    hub.add_model("org/it", BERT, revisions=("main", "v1"))
    fetch("org/it")
    fetch("org/it@v1")
    fetch("org/it", to=tmp_path / "to")
    assert (tmp_path / "to" / "it" / "model.safetensors").is_file()
    assert copies(tmp_path) == 1
    assert hub.resolved("org/it").count("model.safetensors") == 1
    (tmp_path / "to" / "it" / "config.json").write_text("edited in place")
    asked = len(hub.requests)
    assert (fetch("org/it") / "config.json").read_bytes() == BERT["config.json"]
    assert len(hub.requests) == asked


def test_what_transformers_has_downloaded_is_taken(hub: StandIn, tmp_path: Path) -> None:
    hub.add_model("org/it", BERT)
    huggingface_hub.snapshot_download("org/it", endpoint=hub.url(""), cache_dir=str(tmp_path / "hf"))
    del hub.requests[:]
    fetch("org/it")
    assert hub.resolved("org/it") == []
    assert copies(tmp_path) == 1


def test_a_damaged_file_in_the_hubs_cache_is_downloaded_again(hub: StandIn, tmp_path: Path) -> None:
    hub.add_model("org/it", BERT)
    snapshot = Path(huggingface_hub.snapshot_download("org/it", endpoint=hub.url(""), cache_dir=str(tmp_path / "hf")))
    (snapshot / "model.safetensors").resolve().write_bytes(b"damaged")
    assert (fetch("org/it") / "model.safetensors").read_bytes() == WEIGHTS


def test_another_hubs_cache_is_not_filled(hub: StandIn, tmp_path: Path) -> None:
    hub.add_model("org/it", BERT)
    fetch("org/it")
    assert not (tmp_path / "hf").exists()
    assert [path.name for path in (tmp_path / "cache" / "downloads").iterdir()] == []


def test_an_old_receipt_without_a_revision_is_complete(hub: StandIn) -> None:
    hub.add_model("org/it", BERT)
    receipt = fetch("org/it") / "receipt.json"
    content = json.loads(receipt.read_text())
    del content["revision"]
    receipt.write_text(json.dumps(content))
    entry = catalog.lookup("org/it")
    assert entry is not None and cache.is_complete(entry)
