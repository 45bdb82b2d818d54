"""Tiny configurations of the architectures that do not generate text, with the classes that compute them."""

from collections.abc import Callable

from transformers import (
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    PretrainedConfig,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

from tests.helpers.checkpoints import SMALL, VOCAB_SIZE, llama_config, mistral_config, qwen2_config

_ENCODER = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 66,
    "pad_token_id": 1,
}


def _bert(**changes: object) -> BertConfig:
    return BertConfig(**{**_ENCODER, **changes})


def _roberta(**changes: object) -> RobertaConfig:
    return RobertaConfig(**{**_ENCODER, "type_vocab_size": 1, **changes})


def _xlm_roberta(**changes: object) -> XLMRobertaConfig:
    return XLMRobertaConfig(**{**_ENCODER, "type_vocab_size": 1, **changes})


def _mpnet(**changes: object) -> MPNetConfig:
    return MPNetConfig(**{**_ENCODER, **changes})


def _distilbert(**changes: object) -> DistilBertConfig:
    sizes = {"vocab_size": VOCAB_SIZE, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96}
    return DistilBertConfig(**{**sizes, "max_position_embeddings": 64, **changes})


def _modernbert(**changes: object) -> ModernBertConfig:
    special = dict.fromkeys(("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id"), 2)
    return ModernBertConfig(**{**_ENCODER, **special, "local_attention": 8, "num_hidden_layers": 4, **changes})


def _nomic(**changes: object) -> NomicBertConfig:
    return NomicBertConfig(**{**_ENCODER, **changes})


def small_qwen3(**changes: object) -> Qwen3Config:
    return Qwen3Config(**{**SMALL, "head_dim": 16, "pad_token_id": 0, **changes})


def _llama(**changes: object) -> LlamaConfig:
    return llama_config(pad_token_id=0, **changes)


def _mistral(**changes: object) -> MistralConfig:
    return mistral_config(pad_token_id=0, **changes)


# Configurations by the class's name and the variant.
POOLING_MODELS: dict[tuple[str, str], Callable[[], PretrainedConfig]] = {
    ("BertModel", ""): _bert,
    ("BertModel", "without types"): lambda: _bert(type_vocab_size=1, hidden_act="gelu_new", layer_norm_eps=1e-5),
    ("BertForMaskedLM", ""): _bert,
    ("BertForSequenceClassification", "pairs"): lambda: _bert(num_labels=1),
    ("BertForSequenceClassification", "3 labels"): lambda: _bert(num_labels=3),
    ("RobertaModel", ""): _roberta,
    ("RobertaForMaskedLM", ""): _roberta,
    ("RobertaForSequenceClassification", ""): lambda: _roberta(num_labels=2),
    ("XLMRobertaModel", ""): _xlm_roberta,
    ("XLMRobertaForMaskedLM", ""): _xlm_roberta,
    ("XLMRobertaForSequenceClassification", ""): lambda: _xlm_roberta(num_labels=1),
    ("CamembertModel", ""): lambda: CamembertConfig(**{**_ENCODER, "type_vocab_size": 1}),
    ("CamembertForMaskedLM", ""): lambda: CamembertConfig(**{**_ENCODER, "type_vocab_size": 1}),
    ("CamembertForSequenceClassification", ""): lambda: CamembertConfig(**{**_ENCODER, "type_vocab_size": 1}),
    ("MPNetModel", ""): _mpnet,
    ("MPNetForMaskedLM", ""): _mpnet,
    ("MPNetForSequenceClassification", ""): lambda: _mpnet(num_labels=2),
    ("DistilBertModel", ""): _distilbert,
    ("DistilBertForMaskedLM", ""): _distilbert,
    ("DistilBertForSequenceClassification", ""): lambda: _distilbert(num_labels=2),
    ("ModernBertModel", ""): _modernbert,
    ("ModernBertModel", "biases"): lambda: _modernbert(attention_bias=True, mlp_bias=True, norm_bias=True),
    ("ModernBertModel", "other layers"): lambda: _modernbert(global_attn_every_n_layers=2, local_attention=14),
    ("ModernBertForMaskedLM", ""): _modernbert,
    ("ModernBertForSequenceClassification", "cls"): lambda: _modernbert(num_labels=2),
    ("ModernBertForSequenceClassification", "mean"): lambda: _modernbert(
        num_labels=1, classifier_pooling="mean", classifier_bias=True
    ),
    ("NomicBertModel", ""): _nomic,
    ("NomicBertModel", "other theta"): lambda: _nomic(
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, type_vocab_size=1
    ),
    ("LlamaModel", ""): _llama,
    ("LlamaForSequenceClassification", ""): lambda: _llama(num_labels=3),
    ("MistralModel", "window"): _mistral,
    ("MistralForSequenceClassification", "window"): lambda: _mistral(num_labels=1),
    ("Qwen2Model", ""): lambda: qwen2_config(pad_token_id=0),
    ("Qwen2ForSequenceClassification", ""): lambda: qwen2_config(pad_token_id=0, num_labels=1),
    ("Qwen3Model", ""): small_qwen3,
    ("Qwen3ForSequenceClassification", ""): lambda: small_qwen3(num_labels=1),
}
