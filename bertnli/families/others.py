"""Models that do not run: recognised in config.json alone, each with a model of equal use that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from bertnli.common.errors import InputError
from bertnli.families.table import BY_MODEL_TYPE

Use = Literal["nli", "nli in many languages", "nli of long texts", "rerank", "rerank long texts"]

# For each use, models of equal use, the best first: (hub id, model_type). The first whose model_type runs is named.
_MODELS: dict[Use, tuple[tuple[str, str], ...]] = {
    "nli": (
        ("MoritzLaurer/DeBERTa-v3-base-mnli-fever-anli", "deberta-v2"),
        ("cross-encoder/nli-roberta-base", "roberta"),
        ("textattack/bert-base-uncased-MNLI", "bert"),
    ),
    "nli in many languages": (
        ("MoritzLaurer/mDeBERTa-v3-base-mnli-xnli", "deberta-v2"),
        ("joeddav/xlm-roberta-large-xnli", "xlm-roberta"),
    ),
    "nli of long texts": (("tasksource/ModernBERT-base-nli", "modernbert"),),
    "rerank": (("BAAI/bge-reranker-v2-m3", "xlm-roberta"), ("cross-encoder/ms-marco-MiniLM-L6-v2", "bert")),
    "rerank long texts": (("Alibaba-NLP/gte-reranker-modernbert-base", "modernbert"),),
}
_SIMPLER: dict[Use, Use] = {
    "nli in many languages": "nli",
    "nli of long texts": "nli",
    "rerank long texts": "rerank",
}


class Other(NamedTuple):
    """A kind of model that does not run: what it is, and what most people use it for."""

    what: str
    use: Use = "nli"


_LANGUAGE_MODEL = "a language model that generates text (a decoder), and not an encoder of pairs"
_GENERATOR = "an encoder with a decoder, which generates text"

# model_type in config.json.
OTHERS = {
    "bart": Other(f"BART, {_GENERATOR}"),
    "mbart": Other(f"mBART, {_GENERATOR}", "nli in many languages"),
    "t5": Other(f"T5, {_GENERATOR}"),
    "mt5": Other(f"mT5, {_GENERATOR}", "nli in many languages"),
    "umt5": Other(f"UMT5, {_GENERATOR}", "nli in many languages"),
    "longt5": Other(f"LongT5, {_GENERATOR}", "nli of long texts"),
    "t5gemma": Other(f"T5Gemma, {_GENERATOR}"),
    "pegasus": Other(f"Pegasus, {_GENERATOR}"),
    "led": Other(f"LED, {_GENERATOR}", "nli of long texts"),
    "deberta": Other("DeBERTa of version 1, whose attention differs from that of versions 2 and 3"),
    "xlnet": Other("XLNet, which predicts tokens in any order"),
    "xlm": Other("XLM, the model before XLM-RoBERTa", "nli in many languages"),
    "xlm-roberta-xl": Other("XLM-RoBERTa-XL, whose blocks differ from those of XLM-RoBERTa", "nli in many languages"),
    "xmod": Other("X-MOD, with modules for each language", "nli in many languages"),
    "gpt2": Other(f"GPT-2, {_LANGUAGE_MODEL}"),
    "gptj": Other(f"GPT-J, {_LANGUAGE_MODEL}"),
    "gpt_neo": Other(f"GPT-Neo, {_LANGUAGE_MODEL}"),
    "gpt_neox": Other(f"GPT-NeoX, {_LANGUAGE_MODEL}"),
    "opt": Other(f"OPT, {_LANGUAGE_MODEL}"),
    "bloom": Other(f"BLOOM, {_LANGUAGE_MODEL}", "nli in many languages"),
    **{
        f"{family}{version}": Other(f"{name}, {_LANGUAGE_MODEL}", "rerank")
        for family, name, versions in (
            ("qwen", "Qwen", ("2", "2_moe", "3", "3_moe", "2_vl", "2_5_vl", "3_vl")),
            ("gemma", "Gemma", ("", "2", "3", "3_text")),
            ("llama", "Llama", ("", "4")),
            ("mistral", "Mistral", ("", "3")),
            ("phi", "Phi", ("", "3")),
            ("minicpm", "MiniCPM", ("", "3")),
            ("mixtral", "Mixtral", ("",)),
        )
        for version in versions
    },
    "longformer": Other("Longformer, with attention of its own for long texts", "nli of long texts"),
    "big_bird": Other("BigBird, with attention of its own for long texts", "nli of long texts"),
    "nystromformer": Other("Nystromformer, with attention of its own for long texts", "nli of long texts"),
    "reformer": Other("Reformer, with attention of its own for long texts", "nli of long texts"),
    "nomic_bert": Other("Nomic BERT, whose blocks differ from those of BERT", "rerank long texts"),
    "new": Other("GTE's own encoder (Alibaba-NLP/new-impl)", "rerank long texts"),
    "gte": Other("GTE's own encoder", "rerank long texts"),
    "jina_bert": Other("Jina BERT", "rerank long texts"),
    "eurobert": Other("EuroBERT", "nli in many languages"),
    "neobert": Other("NeoBERT", "nli of long texts"),
    "modernbert-decoder": Other(f"the decoder of ModernBERT, {_LANGUAGE_MODEL}", "nli of long texts"),
    "ernie_m": Other("ERNIE-M, whose blocks differ from those of ERNIE", "nli in many languages"),
    "roberta-prelayernorm": Other("RoBERTa whose blocks normalise first"),
    "data2vec-text": Other("Data2Vec of texts"),
    "jina_embeddings_v3": Other("Jina's encoder with adapters for each task", "rerank long texts"),
    "mobilebert": Other("MobileBERT, whose blocks have bottlenecks"),
    "squeezebert": Other("SqueezeBERT, with convolutions"),
    "convbert": Other("ConvBERT, with convolutions"),
    "funnel": Other("Funnel Transformer, which pools tokens between blocks"),
    "fnet": Other("FNet, which has no attention"),
    "ibert": Other("I-BERT, in integers"),
    "megatron-bert": Other("Megatron-BERT, whose blocks normalise first"),
    "roformer": Other("RoFormer"),
    "rembert": Other("RemBERT", "nli in many languages"),
    "luke": Other("LUKE, which reads entities too"),
    "layoutlm": Other("LayoutLM, which reads pages"),
    "canine": Other("CANINE, which reads characters", "nli in many languages"),
    "flaubert": Other("FlauBERT", "nli in many languages"),
    "clip": Other("CLIP, which compares images with texts"),
    "siglip": Other("SigLIP, which compares images with texts"),
    "vit": Other("ViT, which classifies images"),
    "wav2vec2": Other("Wav2Vec2, which hears speech"),
    "whisper": Other("Whisper, which hears speech"),
    "model2vec": Other("Model2Vec, a table of token vectors without an encoder"),
    "encoder-decoder": Other(f"{_GENERATOR}"),
}


def instead(use: Use) -> str:
    """A model of that use that runs, in words for the part of an error message that says what to do."""
    for repo, model_type in _MODELS[use]:
        if model_type in BY_MODEL_TYPE:
            return f"take one of equal use that runs, such as {repo}"
    return instead(_SIMPLER[use])


def check(content: Mapping[str, Any], where: str) -> None:
    """Raise InputError if a config.json is of a kind of model that does not run, and say what to take instead.

    where: the file, for the message; the model's name in it may say what the model is for (a reranker). Sizes and other
    values are for the family's own schema.
    """
    model_type, code = content.get("model_type"), _own_code(content)
    other = (OTHERS.get(model_type) or _by_class(content, model_type)) if isinstance(model_type, str) else None
    if other is None and not code and isinstance(model_type, str) and model_type in BY_MODEL_TYPE:
        return
    do = instead(_use(content, where, other))
    if other is not None:
        raise InputError(f"{where}: key model_type", found=f"{model_type!r}: {other.what}", expected=_expected(), do=do)
    if code:
        raise InputError(
            f"{where}: key auto_map",
            found=f"a model with code of its own, {code}"[:160],
            expected="a model that transformers' own classes run, because bertnli runs no code from a model's files",
            do=do,
        )
    if "model_type" not in content:
        raise InputError(f"{where}: key model_type is missing", **_without_type(content))
    raise InputError(f"{where}: key model_type", found=repr(model_type)[:80], expected=_expected(), do=do)


def _by_class(content: Mapping[str, Any], model_type: str) -> Other | None:
    """What a model of an unknown type is, by the name of its class; None for one that may be an encoder."""
    classes = content.get("architectures")
    names = " ".join(map(str, classes)) if isinstance(classes, list) else ""
    if model_type in BY_MODEL_TYPE:
        return None
    if "ForCausalLM" in names:
        return Other(_LANGUAGE_MODEL, "rerank")
    return Other(_GENERATOR) if "ForConditionalGeneration" in names else None


def _expected() -> str:
    return f"one that runs: {', '.join(BY_MODEL_TYPE)}"


def _own_code(content: Mapping[str, Any]) -> dict[str, Any]:
    """The classes of a model that come from Python files in its repository."""
    code = content.get("auto_map")
    return {key: value for key, value in code.items() if key.startswith("AutoModel")} if isinstance(code, dict) else {}


def _use(content: Mapping[str, Any], where: str, other: Other | None) -> Use:
    """What the model is for: as its outputs and its name say, else as most people use its kind."""
    labels = content.get("id2label")
    outputs = len(labels) if isinstance(labels, dict) else content.get("num_labels")
    usual = other.use if other is not None else "nli"
    text = f"{where} {content.get('_name_or_path', '')} {labels}".lower()
    if "rerank" in text or "ms-marco" in text or "msmarco" in text or "monot5" in text or outputs == 1:
        return "rerank long texts" if "long" in usual else "rerank"
    if "nli" in text or "entail" in text or "zero" in text:
        return "nli" if usual.startswith("rerank") else usual
    return usual


def _without_type(content: Mapping[str, Any]) -> dict[str, str]:
    """found, expected and do of the message about a config.json without model_type."""
    if "architecture" in content and ("pretrained_cfg" in content or "num_features" in content):
        found, do = f"a model of timm, {content['architecture']}, which classifies images", instead("nli")
    elif "model_cfg" in content:
        found, do = "a model of open_clip, which compares images with texts", instead("nli")
    elif isinstance(content.get("peft_type"), str):
        found, do = f"a PEFT adapter ({content['peft_type']})", "merge it into its base model first"
    else:
        found, do = (
            f"the keys {', '.join(list(content)[:6]) or 'of nothing'}",
            'if it is a BERT, add "model_type": "bert"',
        )
    return {"found": found, "expected": "a config.json that transformers wrote", "do": do}
