"""Tiny configurations of MiMo-V2-Flash, for the parity tests."""

from collections.abc import Callable

from transformers import MiMoV2FlashConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_SIZES = {
    "head_dim": 48,
    "v_head_dim": 32,
    "num_key_value_heads": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 48,
    "sliding_window": 6,
}


def mimo_v2(**changes: object) -> MiMoV2FlashConfig:
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    return MiMoV2FlashConfig(**SMALL | _SIZES | {"num_hidden_layers": 3, "layer_types": kinds, **changes})


MIMO_V2_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    "mimo-v2": mimo_v2,
    "mimo-v2-biased-groups-no-scale": lambda: mimo_v2(
        attention_bias=True,
        attention_value_scale=None,
        n_group=4,
        topk_group=2,
        routed_scaling_factor=1.5,
        v_head_dim=16,
        mlp_layer_types=["sparse", "dense", "sparse"],
    ),
}
