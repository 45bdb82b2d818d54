"""Tiny configurations of OLMo 1, Seed-OSS, Phi and Arcee, which are Llama with other biases, norms or MLPs."""

from collections.abc import Callable

from transformers import ArceeConfig, OlmoConfig, PhiConfig, PretrainedConfig, SeedOssConfig

from tests.helpers.checkpoints import LLAMA3_ROPE, SMALL

BIASED_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "arcee": lambda: ArceeConfig(**SMALL),
    "arcee-biases-tied-llama3": lambda: ArceeConfig(
        **SMALL
        | {"mlp_bias": True, "attention_bias": True, "tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE}
    ),
    "olmo": lambda: OlmoConfig(**SMALL | {"clip_qkv": 0.8}),
    "olmo-tied-mha-biases": lambda: OlmoConfig(
        **SMALL | {"tie_word_embeddings": True, "num_key_value_heads": 4, "attention_bias": True}
    ),
    "phi": lambda: PhiConfig(**SMALL | {"num_key_value_heads": 4}),
    "phi-norms-gqa": lambda: PhiConfig(
        **SMALL
        | {"qk_layernorm": True, "layer_norm_eps": 1e-3}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}}
        | {"hidden_size": 128}
    ),
    "seed-oss": lambda: SeedOssConfig(**SMALL | {"head_dim": 32}),
    "seed-oss-tied-mha-all-biases": lambda: SeedOssConfig(
        **SMALL
        | {"tie_word_embeddings": True, "num_key_value_heads": 4, "head_dim": 16, "rms_norm_eps": 1e-3}
        | {"attention_out_bias": True, "mlp_bias": True}
    ),
}
