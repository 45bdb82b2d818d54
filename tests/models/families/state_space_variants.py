"""Tiny configurations with state spaces, for the parity tests."""

from collections.abc import Callable

from transformers import (
    BambaConfig,
    FalconH1Config,
    FalconMambaConfig,
    GraniteMoeHybridConfig,
    JambaConfig,
    Mamba2Config,
    MambaConfig,
    NemotronHConfig,
    PretrainedConfig,
)

from tests.helpers.checkpoints import SMALL, VOCAB_SIZE

SPACE = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
SPACE_AND_ATTENTION = ["linear_attention", "full_attention", "linear_attention"]
GRANITE = {
    **SMALL,
    **SPACE,
    "num_hidden_layers": 3,
    "layer_types": SPACE_AND_ATTENTION,
    "shared_intermediate_size": 80,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.7,
    "logits_scaling": 0.5,
}


def granite_hybrid(**changes: object) -> GraniteMoeHybridConfig:
    return GraniteMoeHybridConfig(**{**GRANITE, "num_local_experts": 0, **changes})


def bamba(**changes: object) -> BambaConfig:
    return BambaConfig(**{**SMALL, **SPACE, "num_hidden_layers": 3, "attn_layer_indices": [1], **changes})


def falcon_h1(**changes: object) -> FalconH1Config:
    return FalconH1Config(**{**SMALL, **SPACE, "mamba_d_ssm": 128, "head_dim": 16, **changes})


def nemotron_h(**changes: object) -> NemotronHConfig:
    fields = {name: value for name, value in SMALL.items() if name != "num_hidden_layers"}
    space = {"mamba_num_heads": 4, "mamba_head_dim": 32, "n_groups": 2, "ssm_state_size": 16, "chunk_size": 16}
    # Transformers raises steps to time_step_min in prompts, which the published code does not.
    kinds = ["linear_attention", "mlp", "full_attention", "linear_attention", "mlp"]
    return NemotronHConfig(
        **{**fields, **space, "head_dim": 16, "time_step_min": 1e-9, "layers_block_type": kinds, **changes}
    )


def mamba2(**changes: object) -> Mamba2Config:
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
    space = {"num_heads": 4, "head_dim": 32, "n_groups": 2, "state_size": 16, "chunk_size": 16}
    return Mamba2Config(**{**sizes, **space, **changes})


def mamba(kind: type[PretrainedConfig] = MambaConfig, **changes: object) -> PretrainedConfig:
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
    return kind(**{**sizes, "state_size": 16, "time_step_rank": 16, **changes})


def jamba(**changes: object) -> JambaConfig:
    layers = {"num_hidden_layers": 3, "attn_layer_period": 3, "attn_layer_offset": 1}
    experts = {"num_experts": 5, "num_experts_per_tok": 2}
    return JambaConfig(**{**SMALL, **layers, **experts, "mamba_dt_rank": 16, **changes})


STATE_SPACE_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "granite-hybrid": granite_hybrid,
    "granite-hybrid-experts": lambda: granite_hybrid(
        num_local_experts=5,
        num_experts_per_tok=2,
        mamba_n_groups=1,
        mamba_conv_bias=False,
        mamba_proj_bias=True,
        time_step_limit=(0.05, 0.4),
        tie_word_embeddings=True,
    ),
    "granite-hybrid-attention-alone": lambda: granite_hybrid(
        layer_types=["full_attention"] * 3, position_embedding_type="rope", rms_norm_eps=1e-3
    ),
    "falcon-h1": falcon_h1,
    "falcon-h1-multipliers": lambda: falcon_h1(
        mamba_rms_norm=True,
        mamba_norm_before_gate=False,
        embedding_multiplier=2.0,
        lm_head_multiplier=0.6,
        mlp_multipliers=[0.8, 0.7],
        key_multiplier=0.5,
        attention_in_multiplier=0.9,
        attention_out_multiplier=0.6,
        ssm_multipliers=[0.5, 0.8, 1.2, 0.9, 1.1],
        ssm_in_multiplier=1.3,
        ssm_out_multiplier=0.7,
        tie_word_embeddings=True,
    ),
    "falcon-h1-norm-before-gate": lambda: falcon_h1(
        mamba_rms_norm=True,
        mamba_norm_before_gate=True,
        attention_bias=True,
        projectors_bias=True,
        mamba_conv_bias=False,
    ),
    "nemotron-h": nemotron_h,
    "nemotron-h-experts": lambda: nemotron_h(
        layers_block_type=["moe", "linear_attention", "full_attention", "moe"],
        n_routed_experts=6,
        moe_intermediate_size=48,
        moe_shared_expert_intermediate_size=80,
        routed_scaling_factor=1.5,
        norm_topk_prob=False,
        use_bias=True,
        use_conv_bias=False,
        n_groups=1,
    ),
    "nemotron-h-latent-experts": lambda: nemotron_h(
        layers_block_type=["moe", "linear_attention", "full_attention", "moe"],
        n_routed_experts=6,
        moe_intermediate_size=48,
        moe_shared_expert_intermediate_size=80,
        moe_latent_size=32,
        mlp_bias=True,
    ),
    "mamba2": mamba2,
    "mamba2-biases-tied": lambda: mamba2(
        use_bias=True, use_conv_bias=False, n_groups=1, tie_word_embeddings=True, layer_norm_epsilon=1e-3
    ),
    "mamba": mamba,
    "mamba-biases-untied": lambda: mamba(
        use_bias=True, use_conv_bias=False, tie_word_embeddings=False, state_size=20, time_step_rank=12
    ),
    "falcon-mamba": lambda: mamba(FalconMambaConfig),
    "falcon-mamba-untied": lambda: mamba(FalconMambaConfig, tie_word_embeddings=False, mixer_rms_eps=1e-3),
    "jamba": jamba,
    "jamba-biases-dense": lambda: jamba(
        mamba_proj_bias=True, mamba_conv_bias=False, expert_layer_period=5, expert_layer_offset=4, rms_norm_eps=1e-3
    ),
    "bamba": bamba,
    "bamba-biases-odd-sizes": lambda: bamba(
        hidden_size=80,
        num_attention_heads=5,
        num_key_value_heads=1,
        intermediate_size=100,  # no kernel takes it, nor the sizes of heads and states
        mamba_d_head=40,
        mamba_d_state=12,
        mamba_proj_bias=True,
        attention_bias=True,
        mlp_bias=True,
        rms_norm_eps=1e-3,
    ),
}
