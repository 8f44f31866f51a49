"""Score pairs with a bundle, without bertnli: needs onnxruntime, tokenizers and numpy, and the folder bundle/."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

pairs = [("A man is playing a guitar.", "A person makes music."), ("Two dogs run on a beach.", "The dogs sleep.")]

config = json.loads(Path("bundle/config.json").read_text())
manifest = json.loads(Path("bundle/manifest.json").read_text())
tokenizer = Tokenizer.from_file("bundle/tokenizer.json")
settings = config["bertnli"]
side, rule = settings.get("truncation_side", "right"), settings["truncation"]
strategy = rule if rule.startswith("only_") else "longest_first"  # the library has no other rule
tokenizer.enable_truncation(settings["max_length"], direction=side, strategy=strategy)
tokenizer.enable_padding(pad_id=config["pad_token_id"])
options = onnxruntime.SessionOptions()
if manifest["precision"] == "int8":  # exact products on a CPU without VNNI too, where the usual ones give NaN
    options.add_session_config_entry("session.x64quantprecision", "1")
session = onnxruntime.InferenceSession("bundle/model.onnx", options, providers=["CPUExecutionProvider"])

encoded = tokenizer.encode_batch(pairs)
inputs = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
batch = {name: np.array([getattr(pair, field) for pair in encoded]) for name, field in inputs.items()}
values = session.run(["logits"], batch)[0] / manifest["temperature"]
if manifest["activation"] == "softmax":  # a pair has one of the labels
    odds = np.exp(values - values.max(axis=1, keepdims=True))
    values = odds / odds.sum(axis=1, keepdims=True)
elif manifest["activation"] == "sigmoid":  # labels that are independent of each other, or a score
    values = 1 / (1 + np.exp(-values))
for row in values.tolist():
    print(dict(zip(config["id2label"].values(), row, strict=True)))
