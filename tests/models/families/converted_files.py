"""GGUF files of tests/fixtures/converted: the configuration of each, and the architectures that have none."""

from dataclasses import dataclass, field

from transformers import PretrainedConfig

from tests.helpers.techniques import described
from tests.models.families.all_variants import ALL_VARIANTS
from tests.models.families.deepseek_variants import YARN


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """A file of llama.cpp's converter: a configuration of the parity tests, and how it differs from it."""

    # Fields that the converter does not write, with the values that readers assume, and sizes that keep the file small.
    fields: dict[str, object] = field(default_factory=dict)
    # Fields of published config.json files that transformers 5 writes in another way; None leaves a field out.
    published: dict[str, object] = field(default_factory=dict)


_HYBRID = {"layer_types": ["mamba", "attention", "mamba"]}
_EVERY_SECOND = {"full_attention_interval": 2}
_SAME_HEADS = {"linear_value_head_dim": 16}
_CAP = {"final_logit_softcapping": 30.0}  # which llama.cpp assumes
_DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# llama.cpp has one epsilon, also for the norms of latents: the published one.
_ONE_MSCALE = {"rope_parameters": YARN | {"mscale": YARN["mscale_all_dim"]}, "rms_norm_eps": 1e-6}

CONVERTED: dict[str, ConvertedFile] = {
    "granite-hybrid-experts": ConvertedFile(
        {"num_local_experts": 4, "time_step_limit": (0.0, float("inf")), "mamba_proj_bias": False}
        | {"mamba_conv_bias": True},
        _HYBRID,
    ),
    "nemotron-h": ConvertedFile(
        published={
            "hybrid_override_pattern": "M-*M-",
            "num_hidden_layers": 5,
            "layers_block_type": None,
            "n_routed_experts": None,
            "num_experts_per_tok": None,
            "n_group": None,
            "topk_group": None,
        }
    ),
    "nemotron-h-experts": ConvertedFile({"use_bias": False, "use_conv_bias": True}),
    "nemotron-h-latent-experts": ConvertedFile({"mlp_bias": False}),
    "falcon-h1-multipliers": ConvertedFile({"tie_word_embeddings": False}),
    "bamba": ConvertedFile(published={"attn_rotary_emb": 8}),
    "mamba": ConvertedFile(),
    "mamba2": ConvertedFile(),
    "falcon-mamba": ConvertedFile({"mixer_rms_eps": 1e-5}),
    "jais2": ConvertedFile(),
    "jamba": ConvertedFile(),
    "kimi-linear": ConvertedFile(
        {"linear_num_heads": 4},
        {
            "linear_attn_config": {
                "full_attn_layers": [2],
                "kda_layers": [1, 3],
                "head_dim": 16,
                "num_heads": 4,
                "short_conv_kernel_size": 4,
            },
            "first_k_dense_replace": 1,
            "moe_router_activation_func": "sigmoid",
            "num_experts_per_token": 3,
            "num_shared_experts": 1,
        },
    ),
    "lfm2": ConvertedFile(),
    "lfm2-moe": ConvertedFile(),
    "qwen3-next": ConvertedFile(_SAME_HEADS, _EVERY_SECOND),
    "qwen3.5": ConvertedFile(_SAME_HEADS, _EVERY_SECOND),
    "qwen3.5-moe": ConvertedFile(_SAME_HEADS, _EVERY_SECOND),
    "afmoe": ConvertedFile({"num_experts": 4}, {"route_norm": True}),
    "apertus": ConvertedFile(),
    "arcee": ConvertedFile(),
    "olmo": ConvertedFile(),
    "phi": ConvertedFile({"intermediate_size": 256}),
    "rwkv7": ConvertedFile(
        {
            "heads_norm_eps": 64e-5,
            "vocab_size": 288,
            "hidden_size": 128,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "head_dim": 64,  # llama.cpp's vectors need as many
        }
    ),
    "seed-oss": ConvertedFile(),
    "gemma": ConvertedFile(),
    "gemma2": ConvertedFile({"query_pre_attn_scalar": 32}),
    "gemma3": ConvertedFile({"query_pre_attn_scalar": 32}),
    "gemma3n": ConvertedFile({"vocab_size_per_layer_input": 128}),  # the converter fills the table with zeros
    "gemma4": ConvertedFile(_CAP),
    "gemma4-experts-without-inputs": ConvertedFile(_CAP),
    "cohere": ConvertedFile(),
    "cohere-qk-norm": ConvertedFile(),
    "cohere2": ConvertedFile(published={"rotary_pct": 1.0}),
    "stablelm": ConvertedFile(),
    "starcoder-mqa": ConvertedFile(),
    "starcoder2": ConvertedFile(),
    "gpt-neox": ConvertedFile(published={"rotary_pct": 0.25}),
    "falcon-two-norms": ConvertedFile(),
    "mpt": ConvertedFile(published={"architectures": ["MPTForCausalLM"]}),
    "bitnet": ConvertedFile(
        {"hidden_act": "silu", "tie_word_embeddings": True}, {"architectures": ["BitnetForCausalLM"]}
    ),
    "bloom": ConvertedFile(),
    "cohere2-moe": ConvertedFile(),
    "deepseek-v2-groups-yarn": ConvertedFile(_ONE_MSCALE),
    "deepseek-v3": ConvertedFile(
        _ONE_MSCALE | {"attention_bias": False},
        {"scoring_func": "sigmoid"},
    ),
    "deepseek-v3.2": ConvertedFile(
        _ONE_MSCALE
        | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}}
        | {"attention_bias": False, "index_head_dim": 64},
        {"scoring_func": "sigmoid"},
    ),
    "glm-5.2": ConvertedFile(
        {"norm_topk_prob": True, "mlp_layer_types": ["dense", "sparse", "sparse"], "rms_norm_eps": 1e-6}
        | {"index_head_dim": 64},
        {"scoring_func": "sigmoid", "first_k_dense_replace": 1},
    ),
    "dots1": ConvertedFile({"num_key_value_heads": 4}, {"scoring_func": "sigmoid"}),
    "ernie4-5": ConvertedFile(),
    "ernie4-5-moe": ConvertedFile(),
    "exaone4": ConvertedFile(),
    "exaone-moe": ConvertedFile(published={"scoring_func": "sigmoid"}),
    "glm4-moe": ConvertedFile(),
    "glm4-moe-lite": ConvertedFile(published={"first_k_dense_replace": 1}),
    "granite-swa-untied-scales-nope": ConvertedFile(published={"no_rope_layers": [0, 1]}),
    "hunyuan": ConvertedFile({"max_position_embeddings": 32768}),
    "hunyuan-moe": ConvertedFile(
        {"rope_parameters": _DEFAULT_ROPE},
        {"moe_topk": [3, 3], "moe_intermediate_size": [96, 96], "num_shared_expert": [1, 1]},
    ),
    "hy-v3": ConvertedFile(),
    "mimo-v2": ConvertedFile(
        published={
            "hybrid_layer_pattern": [0, 1, 1],
            "moe_layer_freq": [0, 1, 1],
            "sliding_window": 5,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 48,
            "swa_v_head_dim": 32,
            "rope_parameters": None,
            "rope_theta": 5000000.0,
            "swa_rope_theta": 10000.0,
            "partial_rotary_factor": 0.334,
            "layernorm_epsilon": 1e-5,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        }
    ),
    "minimax": ConvertedFile(
        published={
            "architectures": ["MiniMaxText01ForCausalLM"],
            "rotary_dim": 16,
            **{f"layernorm_{name}_alpha": 1.7 for name in ("full_attention", "linear_attention", "mlp")},
            **{f"layernorm_{name}_beta": 1.0 for name in ("full_attention", "linear_attention", "mlp")},
        }
    ),
    "minimax-m2": ConvertedFile(published={"scoring_func": "sigmoid"}),
    "qwen2.5-vl": ConvertedFile(),
    "qwen3-vl": ConvertedFile(),
    "qwen3-vl-moe": ConvertedFile(),
    "nemotron": ConvertedFile(),
    "phimoe": ConvertedFile(
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "router_jitter_noise": 0.01,
            "num_experts": 4,
        },
        published={"architectures": ["PhiMoEForCausalLM"]},
    ),
    "llama-gqa": ConvertedFile(),
    "llama3-rope": ConvertedFile(),
    "llama4": ConvertedFile(
        {
            "attention_chunk_size": 8192,
            "floor_scale": 8192,
            "no_rope_layers": [1, 1, 1, 0],
            "layer_types": [*["chunked_attention"] * 3, "full_attention"],
        },
    ),
    "mistral-full": ConvertedFile(),
    "ministral3": ConvertedFile(),
    "mixtral": ConvertedFile(),
    "qwen2": ConvertedFile(),
    "qwen2-moe": ConvertedFile(),
    "qwen3": ConvertedFile(),
    "qwen3-moe": ConvertedFile(),
    "phi3": ConvertedFile(),
    "phi3-longrope-partial": ConvertedFile(),
    "smollm3": ConvertedFile(),
    "olmo2": ConvertedFile(),
    "olmo3": ConvertedFile(),
    "olmoe": ConvertedFile({"num_key_value_heads": 4}),
    "granite": ConvertedFile(),
    "granite-moe": ConvertedFile(),
    "granite-moe-shared": ConvertedFile(),
    "gpt-oss": ConvertedFile(),
    "glm": ConvertedFile({"rms_norm_eps": 1e-5}),
    "glm4": ConvertedFile(),
    "gpt2": ConvertedFile(published={"n_ctx": 128}),
}

NOT_CONVERTED = {
    "GPTJForCausalLM": "the converter has no such class",
    "Gemma4UnifiedForCausalLM": "the converter has its multimodal class alone",
    "Glm4vForConditionalGeneration": "compared by hand",
    "MinistralForCausalLM": "the converter has no such class",
}


def converted_architectures() -> set[str]:
    """Classes that have a file."""
    return {described(configuration(name))[0] for name in CONVERTED}


def configuration(name: str) -> PretrainedConfig:
    """The configuration of the model in a file."""
    config = ALL_VARIANTS[name]()
    for field_name, value in CONVERTED[name].fields.items():
        setattr(config, field_name, value)
    return config
