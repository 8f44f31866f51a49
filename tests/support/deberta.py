"""Small random DeBERTa-v2 models of each kind, as transformers has them and as ours."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from bertnli.data.outputs import Outputs
from bertnli.families import folder_config
from bertnli.model.classifier import PairClassifier
from bertnli.model.keymaps import from_foreign

V3 = {
    "position_buckets": 8,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "pos_att_type": "p2c|c2p",
}
KINDS: dict[str, dict[str, Any]] = {
    "v3": V3,
    "mdeberta": V3 | {"max_relative_positions": 20, "hidden_size": 36, "num_attention_heads": 3},
    "v2 without buckets": {"pos_att_type": ["c2p", "p2c"], "type_vocab_size": 2, "max_relative_positions": 12},
    "own projections": V3 | {"share_att_key": False, "pooler_hidden_act": "tanh", "hidden_act": "gelu_new"},
    "c2p alone": V3 | {"pos_att_type": "c2p", "share_att_key": False},
    "convolution": V3 | {"conv_kernel_size": 3, "conv_act": "gelu"},
    "p2c alone": V3 | {"pos_att_type": ["p2c"], "norm_rel_ebd": "none"},
}
LENGTHS = [3, 9, 30, 28, 2, 1, 17, 17]  # both within the buckets and far beyond


def theirs(**changes: Any) -> DebertaV2ForSequenceClassification:
    """A random model whose logits depend on everything."""
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3}
    sizes |= {"intermediate_size": 40, "max_position_embeddings": 32, "relative_attention": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DebertaV2Config(num_labels=3, **(sizes | changes))
        model = DebertaV2ForSequenceClassification(config)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding | nn.Conv1d):
                for parameter in module.parameters():
                    nn.init.normal_(parameter, std=0.3, mean=float(isinstance(module, nn.LayerNorm)))
    return model.eval()


def ours(model: DebertaV2ForSequenceClassification) -> PairClassifier:
    content = json.loads(model.config.to_json_string(use_diff=False)) | {"model_type": "deberta-v2"}
    config = folder_config.parse(content, "config.json").to_ours(Outputs(("a", "b", "c")))
    built = PairClassifier(config)
    built.load_state_dict(from_foreign(model.state_dict(), config, "weights", "…"))
    return built.eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(1, 50, shape), torch.randint(2, shape), mask  # 0 is theirs for padding, without a gradient
