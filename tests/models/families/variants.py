"""Tiny configurations of every supported architecture, at least two each: what the parity tests run over."""

from collections.abc import Callable

from transformers import (
    Glm4Config,
    GlmConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    GraniteMoeSharedConfig,
    Llama4TextConfig,
    Ministral3Config,
    MinistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoeConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from tests.helpers.checkpoints import LLAMA3_ROPE, SMALL, gpt2_config, llama_config, mistral_config, qwen2_config

LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
}
# The longest served context decides which factors there are, so the tests' model claims no more than the original one.
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 32.0, 64.0],
    "original_max_position_embeddings": 256,
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LOCAL_EXPERTS = {"num_local_experts": 5, "num_experts_per_tok": 2}
NO_PAD = {"pad_token_id": None}


def _tiny(kind: type[PretrainedConfig], **own: object) -> Callable[..., PretrainedConfig]:
    """A maker of configurations of SMALL size with the family's own fields, which calls may change."""
    return lambda **changes: kind(**{**SMALL, **own, **changes})


glm = _tiny(GlmConfig, head_dim=16, **NO_PAD)
glm4 = _tiny(Glm4Config, head_dim=16, **NO_PAD)
gpt_oss = _tiny(GptOssConfig, head_dim=16, intermediate_size=48, sliding_window=6, **LOCAL_EXPERTS)
granite = _tiny(
    GraniteConfig, embedding_multiplier=1.5, residual_multiplier=0.7, attention_multiplier=0.3, logits_scaling=0.8
)
granite_moe = _tiny(GraniteMoeConfig, intermediate_size=48, residual_multiplier=0.7, **LOCAL_EXPERTS)
granite_shared = _tiny(GraniteMoeSharedConfig, intermediate_size=48, shared_intermediate_size=32, **LOCAL_EXPERTS)
llama4 = _tiny(
    Llama4TextConfig,
    head_dim=16,
    intermediate_size=48,
    intermediate_size_mlp=80,
    num_hidden_layers=4,
    no_rope_layer_interval=2,
    attention_chunk_size=7,
    floor_scale=4,
    num_local_experts=4,
    rms_norm_eps=1e-4,
)
ministral = _tiny(MinistralConfig, head_dim=16, sliding_window=6)
ministral3 = _tiny(Ministral3Config, head_dim=16)
mixtral = _tiny(MixtralConfig, intermediate_size=48, **LOCAL_EXPERTS)
olmo2 = _tiny(Olmo2Config)
olmo3 = _tiny(Olmo3Config, sliding_window=6, num_hidden_layers=4)
olmoe = _tiny(OlmoeConfig, intermediate_size=48, num_experts=5, num_experts_per_tok=2)
phi3 = _tiny(Phi3Config, original_max_position_embeddings=256, **NO_PAD)
qwen2_moe = _tiny(Qwen2MoeConfig, shared_expert_intermediate_size=32, **EXPERTS)
qwen3 = _tiny(Qwen3Config, head_dim=32)
qwen3_moe = _tiny(Qwen3MoeConfig, head_dim=16, **EXPERTS)
smollm3 = _tiny(SmolLM3Config, num_hidden_layers=4, **NO_PAD)  # the last is not rotated

VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama-gqa": llama_config,
    "llama-mha": lambda: llama_config(num_key_value_heads=4),
    "llama-tied": lambda: llama_config(tie_word_embeddings=True),
    "llama-biases": lambda: llama_config(attention_bias=True, mlp_bias=True),
    "llama-head-dim": lambda: llama_config(head_dim=32),
    "llama-exact-gelu": lambda: llama_config(hidden_act="gelu"),
    "llama-relu-squared": lambda: llama_config(hidden_act="relu2"),
    "llama-quick-gelu": lambda: llama_config(hidden_act="quick_gelu"),
    "llama3-rope": lambda: llama_config(rope_parameters=LLAMA3_ROPE),
    "llama-linear-rope": lambda: llama_config(rope_parameters=LINEAR_ROPE),
    "llama-yarn": lambda: llama_config(rope_parameters=YARN_ROPE),
    "llama-with-an-unused-window": lambda: llama_config(sliding_window=6),
    "llama4": llama4,  # a chunk ends within a block, and prompts and steps reach over it
    "llama4-mixed": lambda: llama4(
        **{"interleave_moe_layer_step": 2, "num_experts_per_tok": 2, "use_qk_norm": False, "attention_bias": True},
        **{"attn_temperature_tuning": False, "rope_parameters": LLAMA3_ROPE, "attention_chunk_size": 16},
        layer_types=["chunked_attention", "chunked_attention", "full_attention", "full_attention"],
    ),
    "mistral-window": mistral_config,
    "mistral-full": lambda: mistral_config(sliding_window=None),
    "ministral-windows": ministral,
    "ministral-mixed": lambda: ministral(layer_types=["sliding_attention", "full_attention"]),
    "ministral3": lambda: ministral3(
        rope_parameters={**YARN_ROPE, "llama_4_scaling_beta": 0.5, "original_max_position_embeddings": 8}
        | {"mscale": 1.0, "mscale_all_dim": 1.0},
    ),
    "ministral3-tied": lambda: ministral3(tie_word_embeddings=True),
    "mixtral": mixtral,
    "mixtral-window": lambda: mixtral(sliding_window=6, num_experts_per_tok=1),
    "qwen2": qwen2_config,
    "qwen2-tied": lambda: qwen2_config(tie_word_embeddings=True),
    "qwen2-upper-window": lambda: qwen2_config(use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "qwen2-moe": qwen2_moe,
    "qwen2-moe-mixed": lambda: qwen2_moe(mlp_only_layers=[0], norm_topk_prob=True),
    "qwen3": qwen3,
    "qwen3-tied-biases-window": lambda: qwen3(
        **{"tie_word_embeddings": True, "attention_bias": True, "rms_norm_eps": 1e-3},
        **{"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3-moe": lambda: qwen3_moe(norm_topk_prob=True),
    "qwen3-moe-mixed": lambda: qwen3_moe(decoder_sparse_step=2, rms_norm_eps=1e-3),
    "phi3": phi3,
    "phi3-longrope-partial": lambda: phi3(
        rope_parameters={**LONGROPE, "partial_rotary_factor": 0.5, "short_factor": [1.0, 1.5, 2.0, 4.0]}
        | {"long_factor": [1.0, 2.0, 4.0, 8.0]},
        sliding_window=6,
    ),
    "smollm3": smollm3,
    "smollm3-untied": lambda: smollm3(tie_word_embeddings=False, attention_bias=True, no_rope_layers=[0, 1, 1, 0]),
    "olmo2": olmo2,
    "olmo2-mha-tied": lambda: olmo2(num_key_value_heads=4, tie_word_embeddings=True, rms_norm_eps=1e-3),
    "olmo3": olmo3,
    "olmo3-full-yarn": lambda: olmo3(
        rope_parameters={"full_attention": YARN_ROPE, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
        rms_norm_eps=1e-3,
    ),
    "olmoe": olmoe,
    "olmoe-renormalized": lambda: olmoe(norm_topk_prob=True, num_key_value_heads=4, rms_norm_eps=1e-3),
    "granite": granite,
    "granite-biases": lambda: granite(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "granite-moe": granite_moe,
    "granite-moe-tied": lambda: granite_moe(tie_word_embeddings=True, embedding_multiplier=2.0),
    "granite-moe-shared": granite_shared,
    "granite-moe-without-shared": lambda: granite_shared(shared_intermediate_size=0),
    "gpt-oss": gpt_oss,
    "gpt-oss-plain-rope": lambda: gpt_oss(
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        layer_types=["full_attention"] * 2,
        **{"swiglu_alpha": 1.2, "swiglu_limit": 0.5},
    ),
    "glm": glm,
    "glm-no-biases": lambda: glm(attention_bias=False, tie_word_embeddings=True),
    "glm4": glm4,
    "glm4-mha": lambda: glm4(attention_bias=False, num_key_value_heads=4),
    "gpt2": gpt2_config,
    "gpt2-scaled-by-depth": lambda: gpt2_config(scale_attn_by_inverse_layer_idx=True, n_inner=80),
}
