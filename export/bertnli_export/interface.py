"""What every bundle's graph takes, int64 `[batch, length]`, and gives, float32 `[batch, labels]`."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "logits"
