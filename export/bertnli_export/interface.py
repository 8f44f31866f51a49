"""The interface of every bundle's graph: inputs int64 `[batch, length]`, output float32 `[batch, labels]`.

The last input is missing in the hub's layout (hub_layout.py) where transformers' tokenizer does not give it.
"""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "logits"

SATURATION_CHECK = "saturation_check"
"""The entry `bertnli.saturation_check` of an int8 graph's own metadata: its logits are NaN where its products are wrong
(graphs/saturation.py)."""
