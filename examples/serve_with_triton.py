"""A client of Triton Inference Server, for a model of `bertnli export MODEL repository --layout triton`.

    tritonserver --model-repository=repository
    python examples/serve_with_triton.py http://localhost:8000 repository/nli

It needs tokenizers and numpy, and speaks the KServe v2 protocol in JSON (Triton's HTTP endpoint).
"""

import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
from tokenizers import Tokenizer

INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def scores(server: str, model: Path, pairs: list[tuple[str, str]]) -> list[dict[str, float]]:
    """Probabilities by label, or the score, for at most 32 pairs. model: its folder, with tokenizer and manifest."""
    manifest = json.loads((model / "manifest.json").read_text())
    config = json.loads((model / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    settings = config["bertnli"]
    side, rule = settings.get("truncation_side", "right"), settings["truncation"]
    strategy = rule if rule.startswith("only_") else "longest_first"  # the library has no other rule
    tokenizer.enable_truncation(settings["max_length"], direction=side, strategy=strategy)
    # Few different lengths, because Triton joins requests of the same length into one batch.
    tokenizer.enable_padding(pad_id=config["pad_token_id"], pad_to_multiple_of=16)
    encoded = tokenizer.encode_batch(pairs)

    shape = [len(encoded), len(encoded[0])]
    inputs = [
        {"name": name, "shape": shape, "datatype": "INT64", "data": [getattr(pair, field) for pair in encoded]}
        for name, field in INPUTS.items()
    ]
    asked = Request(f"{server}/v2/models/{model.name}/infer", json.dumps({"inputs": inputs}).encode())
    with urlopen(asked) as answer:
        [output] = json.load(answer)["outputs"]
    values = np.array(output["data"]).reshape(output["shape"]) / manifest["temperature"]
    if manifest["activation"] == "softmax":  # a pair has one of the labels
        odds = np.exp(values - values.max(axis=1, keepdims=True))
        values = odds / odds.sum(axis=1, keepdims=True)
    elif manifest["activation"] == "sigmoid":  # labels that are independent of each other, or a score
        values = 1 / (1 + np.exp(-values))
    return [dict(zip(config["id2label"].values(), row, strict=True)) for row in values.tolist()]


if __name__ == "__main__":
    two = [("A man is playing a guitar.", "A person makes music."), ("Two dogs run on a beach.", "The dogs sleep.")]
    for found in scores(sys.argv[1], Path(sys.argv[2]), two):
        print(json.dumps(found))
