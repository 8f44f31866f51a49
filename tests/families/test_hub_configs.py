"""config.json as well-known checkpoints on the hub have it, with every odd key: what each model is read as.

The keys and values are those of the files (names of labels, numbers in place of floats, keys of old versions); without
the network nothing else of them is at hand. transformers' own classes say which labels and positions are expected.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.activations import ACT2FN

from bertnli.data import output_config
from bertnli.data.outputs import Outputs
from bertnli.data.positions import usable_positions
from bertnli.families import folder_config
from bertnli.model.blocks import ACTIVATIONS

Content = dict[str, Any]

ENCODER: Content = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}
BERT = ENCODER | {
    "architectures": ["BertForSequenceClassification"],
    "gradient_checkpointing": False,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
ROBERTA = ENCODER | {
    "architectures": ["RobertaForSequenceClassification"],
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514,
    "model_type": "roberta",
    "pad_token_id": 1,
    "type_vocab_size": 1,
    "vocab_size": 50265,
}
XLM_R = ROBERTA | {
    "architectures": ["XLMRobertaForSequenceClassification"],
    "model_type": "xlm-roberta",
    "output_past": True,
    "position_embedding_type": "absolute",
    "vocab_size": 250002,
}
DEBERTA = ENCODER | {
    "architectures": ["DebertaV2ForSequenceClassification"],
    "layer_norm_eps": 1e-07,
    "max_position_embeddings": 512,
    "max_relative_positions": -1,
    "model_type": "deberta-v2",
    "norm_rel_ebd": "layer_norm",
    "pad_token_id": 0,
    "pooler_dropout": 0,
    "pooler_hidden_act": "gelu",
    "pooler_hidden_size": 768,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": 256,
    "relative_attention": True,
    "share_att_key": True,
    "type_vocab_size": 0,
    "vocab_size": 128100,
}
XLARGE = {key: value for key, value in DEBERTA.items() if not key.startswith(("pooler", "pad"))} | {
    "attention_head_size": 64,
    "conv_act": "gelu",
    "conv_kernel_size": 3,
    "hidden_size": 1536,
    "num_attention_heads": 24,
    "pos_att_type": "p2c|c2p",
}
ALBERT = ENCODER | {
    "architectures": ["AlbertForSequenceClassification"],
    "attention_probs_dropout_prob": 0,
    "classifier_dropout_prob": 0.1,
    "down_scale_factor": 1,
    "embedding_size": 128,
    "gap_size": 0,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0,
    "inner_group_num": 1,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "albert",
    "net_structure_type": 0,
    "num_hidden_groups": 1,
    "num_memory_blocks": 0,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30000,
}
DISTILBERT: Content = {
    "activation": "gelu",
    "architectures": ["DistilBertForSequenceClassification"],
    "attention_dropout": 0.1,
    "dim": 768,
    "dropout": 0.1,
    "finetuning_task": "mnli",
    "hidden_dim": 3072,
    "initializer_range": 0.02,
    "max_position_embeddings": 512,
    "model_type": "distilbert",
    "n_heads": 12,
    "n_layers": 6,
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
    "vocab_size": 30522,
}
MODERNBERT: Content = {
    "architectures": ["ModernBertForSequenceClassification"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "hidden_activation": "gelu",
    "hidden_size": 768,
    "intermediate_size": 1152,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "pad_token_id": 50283,
    "position_embedding_type": "absolute",
    "reference_compile": True,
    "repad_logits_with_grad": False,
    "sparse_pred_ignore_index": -100,
    "sparse_prediction": False,
    "vocab_size": 50368,
}
ONE: Content = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


def named(*names: str) -> Content:
    return {"id2label": {str(n): name for n, name in enumerate(names)}, "label2id": {m: n for n, m in enumerate(names)}}


def by(function: str) -> Content:
    return {"sentence_transformers": {"activation_fn": function, "version": "4.0.1"}}


UPPER = named("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
ENTAILMENT_FIRST = named("entailment", "neutral", "contradiction")
CHECKPOINTS: dict[str, tuple[Content, str]] = {  # its config.json, and the activation of its outputs
    "FacebookAI/roberta-large-mnli": (ROBERTA | UPPER | {"_num_labels": 3}, "softmax"),
    "ynie/roberta-large-snli_mnli_fever_anli_R1_R2_R3-nli": (ROBERTA | ENTAILMENT_FIRST, "softmax"),
    "cross-encoder/stsb-roberta-base": (ROBERTA | ONE | by(SIGMOID), "sigmoid"),
    "cross-encoder/quora-distilroberta-base": (ROBERTA | ONE | {"num_hidden_layers": 6}, "sigmoid"),
    "joeddav/xlm-roberta-large-xnli": (
        XLM_R | named("contradiction", "neutral", "entailment") | {"_num_labels": 3},
        "softmax",
    ),
    "symanto/xlm-roberta-base-snli-mnli-anli-xnli": (
        XLM_R | named("ENTAILMENT", "NEUTRAL", "CONTRADICTION") | {"problem_type": "single_label_classification"},
        "softmax",
    ),
    "BAAI/bge-reranker-base": (XLM_R | ONE | {"classifier_dropout": None, "use_cache": True}, "sigmoid"),
    "BAAI/bge-reranker-v2-m3": (XLM_R | ONE | {"max_position_embeddings": 8194}, "sigmoid"),
    "BaptisteDoyen/camembert-base-xnli": (
        XLM_R
        | ENTAILMENT_FIRST
        | {"architectures": ["CamembertForSequenceClassification"], "model_type": "camembert", "bos_token_id": 5},
        "softmax",
    ),
    "cross-encoder/nli-deberta-v3-base": (
        DEBERTA | named("contradiction", "entailment", "neutral") | by(IDENTITY) | {"legacy": True},
        "softmax",
    ),
    "MoritzLaurer/deberta-v3-large-zeroshot-v2.0": (DEBERTA | named("entailment", "not_entailment"), "softmax"),
    "mixedbread-ai/mxbai-rerank-xsmall-v1": (DEBERTA | ONE | {"torch_dtype": "float16"}, "sigmoid"),
    "microsoft/deberta-v2-xlarge-mnli": (XLARGE | UPPER, "softmax"),
    "typeform/distilbert-base-uncased-mnli": (
        DISTILBERT
        | {
            "id2label": {"0": "ENTAILMENT", "1": "NEUTRAL", "2": "CONTRADICTION"},
            "label2id": {"CONTRADICTION": "2", "ENTAILMENT": "0", "NEUTRAL": "1"},
        },
        "softmax",
    ),
    "cross-encoder/ms-marco-MiniLM-L6-v2": (BERT | ONE | by(IDENTITY) | {"hidden_size": 384}, "identity"),
    "an older cross-encoder/ms-marco-MiniLM-L-6-v2": (
        BERT | ONE | {"sbert_ce_default_activation_function": IDENTITY},
        "identity",
    ),
    "cross-encoder/ms-marco-electra-base": (
        BERT
        | ONE
        | by(IDENTITY)
        | {
            "architectures": ["ElectraForSequenceClassification"],
            "embedding_size": 768,
            "model_type": "electra",
            "summary_activation": "gelu",
            "summary_last_dropout": 0.1,
            "summary_type": "first",
            "summary_use_proj": True,
        },
        "identity",
    ),
    "uer/roberta-base-finetuned-chinanews": (
        BERT | named("mainland China politics", "Hong Kong - Macau politics") | {"directionality": "bidi"},
        "softmax",
    ),
    "tals/albert-xlarge-vitaminc-mnli": (ALBERT | named("SUPPORTS", "REFUTES", "NOT ENOUGH INFO"), "softmax"),
    "tasksource/ModernBERT-base-nli": (
        MODERNBERT | ENTAILMENT_FIRST | {"classifiers_size": [3, 2], "tasks": ["glue/mnli", "glue/qnli"]},
        "softmax",
    ),
    "Alibaba-NLP/gte-reranker-modernbert-base": (MODERNBERT | ONE, "sigmoid"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_well_known_checkpoint_runs(name: str) -> None:
    content, activation = CHECKPOINTS[name]
    parsed = folder_config.parse_classifier(content, name)
    outputs, _ = output_config.read(content, name, {}, name)
    config = parsed.to_ours(outputs)
    theirs = AutoConfig.for_model(**content)
    assert outputs.activation == activation
    labels = tuple(theirs.id2label[number] for number in sorted(theirs.id2label))
    assert config.labels == (("score",) if len(labels) == 1 else labels)
    sizes = (theirs.hidden_size, theirs.num_hidden_layers, theirs.num_attention_heads, theirs.vocab_size)
    assert (config.hidden_size, config.num_layers, config.num_heads, config.vocab_size) == sizes
    first = 2 if content["model_type"] in ("roberta", "xlm-roberta", "camembert") else 0
    assert config.max_positions == usable_positions(content) == theirs.max_position_embeddings - first
    assert config.first_position == first


@pytest.mark.parametrize("name", ["gelu_python", "gelu_fast", "gelu_accurate", "gelu_python_tanh"])
def test_another_name_of_an_activation_is_the_same_function(name: str) -> None:
    sizes = {"vocab_size": 99, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    content = {
        "model_type": "bert",
        **sizes,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "hidden_act": name,
    }
    read = folder_config.parse(content, "config.json").to_ours(Outputs(("a", "b")))
    x = torch.linspace(-8, 8, 1001)
    torch.testing.assert_close(ACTIVATIONS[read.activation](x), ACT2FN[name](x), atol=3e-6, rtol=0)
