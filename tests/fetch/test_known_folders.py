"""Folders that people give in place of a model: each is named, and the way out leads to the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.fetch import known_folders
from bertnli.fetch.entry import SourceError
from bertnli.fetch.model_hub import copy_model

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 438000000\n"


def write(folder: Path, *files: str, **contents: Any) -> Path:
    """Empty files; of `contents` a name has __ for a point."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    for name, content in contents.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


MODEL = ("config.json", "model.safetensors")
COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("files", "contents", "named"),
    [
        (
            ("adapter_model.safetensors",),
            {"adapter_config__json": {"base_model_name_or_path": "bert-base-uncased"}},
            ["a PEFT adapter", "for bert-base-uncased", "from_pretrained('{folder}', num_labels=N).merge_and_unload"],
        ),
        (MODEL, {"adapter_config__json": {}}, ["a PEFT adapter"]),
        (
            ("config.json", "latest", "zero_to_fp32.py", "global_step5/mp_rank_00_model_states.pt"),
            {},
            ["a DeepSpeed checkpoint", "deepspeed.utils.zero_to_fp32 {folder} OUT"],
        ),
        (("zero_pp_rank_0_mp_rank_00_optim_states.pt",), {}, ["a DeepSpeed checkpoint"]),
        (
            ("trainer_state.json", *(f"checkpoint-{n}/{name}" for n in (500, 1500, 1000) for name in MODEL)),
            {},
            ["checkpoint-500, checkpoint-1000, checkpoint-1500", "the path of the model: {folder}/checkpoint-1500"],
        ),
        (("checkpoint-7/adapter_config.json",), {}, ["checkpoint-7"]),
        (
            (*(f"snapshots/{commit}/{name}" for commit in (COMMIT, "b" * 40) for name in MODEL), "refs/main"),
            {"refs/main": COMMIT},
            ["snapshots/" + "b" * 40, f"the path of the model: {{folder}}/snapshots/{COMMIT}"],
        ),
        (
            tuple(f"models--a--b/snapshots/{COMMIT}/{n}" for n in MODEL),
            {},
            [f"give the path of the model: {{folder}}/models--a--b/snapshots/{COMMIT}"],
        ),
        (("modules.json", "1_Pooling/config.json", *(f"0_BERT/{n}" for n in MODEL)), {}, ["found 0_BERT", "/0_BERT"]),
        (MODEL[:1], {"model__safetensors": POINTER}, ["{folder}/model.safetensors: only a pointer", "lfs pull"]),
        (MODEL, {"tokenizer__json": POINTER}, ["{folder}/tokenizer.json: only a pointer", "git -C {folder} lfs pull"]),
        (("config.json", "model.onnx"), {}, ["found model.onnx, which is ONNX's", "the checkpoint"]),
        (("config.json", "onnx/model.onnx"), {}, ["found onnx/model.onnx"]),
        (("config.json", "model.onnx", "manifest.json"), {}, ["a bundle, which has no weights for torch"]),
        (("config.json", "tf_model.h5"), {}, ["TensorFlow", "from_pretrained({folder}, from_tf=True)"]),
        (
            ("bert_config.json", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", "vocab.txt"),
            {},
            ["which is TensorFlow's", "transformers-cli convert"],
        ),
        (("bert_config.json", "pytorch_model.bin"), {}, ["no config.json", '"model_type": "bert"']),
        (("config.json", "flax_model.msgpack"), {}, ["Flax"]),
        (("bert.gguf",), {}, ["llama.cpp"]),
        (("config.json", "openvino_model.xml"), {}, ["OpenVINO"]),
        (("pytorch_model_fsdp_0/__0_0.distcp",), {}, ["torch.distributed.checkpoint", "merge-weights {folder}"]),
    ],
)
def test_it_is_named_with_the_way_out(
    files: tuple[str, ...], contents: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    folder = write(tmp_path / "it", *files, **contents)
    with pytest.raises(InputError) as error:
        known_folders.check(folder)
    assert str(folder) in str(error.value)
    for part in named:
        assert part.format(folder=folder) in str(error.value), str(error.value)


@pytest.mark.parametrize(
    "files",
    [
        MODEL,
        (*MODEL, "onnx/model.onnx", "tf_model.h5", "flax_model.msgpack"),
        (*MODEL, "checkpoint-5/config.json", "1_Pooling/config.json"),
        (*MODEL, "latest", "global_step5/mp_rank_00_model_states.pt"),
        ("config.json", "pytorch_model.bin.index.json"),
        ("vocab.json", "pretrained.params"),
        ("config.json",),
        (),
    ],
)
def test_a_model_and_what_nobody_knows_pass(files: tuple[str, ...], tmp_path: Path) -> None:
    tmp_path.joinpath("it").mkdir()
    known_folders.check(write(tmp_path / "it", *files))


def test_a_given_or_fetched_model_is_looked_at_in_the_same_way(tmp_path: Path) -> None:
    target = tmp_path / "to"
    target.mkdir()
    with pytest.raises(InputError, match="a PEFT adapter"):
        copy_model(write(tmp_path / "adapter", "adapter_model.bin", adapter_config__json={}), target)
    with pytest.raises(SourceError, match="not a model: found "):
        copy_model(write(tmp_path / "other", "notes.md"), target)
    assert not list(target.iterdir())
