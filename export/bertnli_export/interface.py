"""The interface of every bundle's graph: inputs int64 `[batch, length]`, output float32 `[batch, labels]`."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "logits"
