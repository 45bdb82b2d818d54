"""Tiny configurations of Ling 3, for the parity tests."""

from transformers import BailingHybridConfig

from tests.models.families.kimi_linear_variants import KIMI


def ling(**changes: object) -> BailingHybridConfig:
    fields = {name: value for name, value in KIMI.items() if not name.startswith("linear_")}
    sizes = {"head_dim": 16, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2, "kda_lower_bound": -2.0}
    return BailingHybridConfig(**{**fields, **sizes, **changes})


BAILING_HYBRID_VARIANTS = {
    "ling-3": ling,
    "ling-3-plain-decay-queries": lambda: ling(
        kda_safe_gate=False,
        q_lora_rank=24,
        v_head_dim=20,  # no kernel takes it
        head_dim=20,
        short_conv_kernel_size=2,
        norm_topk_prob=False,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    ),
}
