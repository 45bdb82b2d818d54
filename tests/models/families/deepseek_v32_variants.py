"""Tiny configurations with an indexer, for the parity tests: most prompts have more tokens than it chooses."""

from transformers import DeepseekV32Config, GlmMoeDsaConfig

from tests.models.families.deepseek_variants import LATENT, YARN

# Enough heads that no position has a score of exactly 0: among equal scores, transformers chooses any.
INDEXED = {**LATENT, "index_n_heads": 24, "index_head_dim": 32, "index_topk": 12}


def deepseek_v32(**changes: object) -> DeepseekV32Config:
    return DeepseekV32Config(**{**INDEXED, "n_group": 4, "topk_group": 2, **changes})


def glm_moe_dsa(**changes: object) -> GlmMoeDsaConfig:
    return GlmMoeDsaConfig(**{**INDEXED, "mlp_layer_types": ["dense", "sparse"], **changes})


DEEPSEEK_V32_VARIANTS = {
    "deepseek-v3.2": lambda: deepseek_v32(rope_parameters=YARN, attention_bias=True),
    "deepseek-v3.2-long": lambda: deepseek_v32(index_topk=64, n_group=1, topk_group=1),  # more than prompts have
    "glm-5": glm_moe_dsa,
    "glm-5.2": lambda: glm_moe_dsa(
        num_hidden_layers=3,
        mlp_layer_types=["dense", "sparse", "dense"],
        indexer_types=["full", "shared", "full"],
        index_topk=5,
        index_head_dim=16,
        norm_topk_prob=False,
    ),
}
