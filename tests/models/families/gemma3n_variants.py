"""Tiny configurations of Gemma 3n, for the parity tests."""

from collections.abc import Callable

from transformers import Gemma3nTextConfig, PretrainedConfig

from tests.helpers.checkpoints import SMALL

_SIZES = {
    **SMALL,
    "head_dim": 16,
    "sliding_window": 6,
    "pad_token_id": None,
    "laurel_rank": 16,
    "hidden_size_per_layer_input": 16,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}


def gemma3n(**changes: object) -> PretrainedConfig:
    return Gemma3nTextConfig(**{**_SIZES, **changes})


GEMMA3N_VARIANTS: dict[str, Callable[[], PretrainedConfig]] = {
    # some tokens are not in the table of the layers' inputs
    "gemma3n": lambda: gemma3n(
        vocab_size_per_layer_input=100,
        intermediate_size=[96, 64, 96, 128],
        activation_sparsity_pattern=[0.8, 0.3, 0.0, 0.0],
    ),
    "gemma3n-three-streams-unshared": lambda: gemma3n(
        altup_num_inputs=3,
        altup_active_idx=1,
        altup_correct_scale=False,
        num_kv_shared_layers=0,
        final_logit_softcapping=5.0,
        rms_norm_eps=1e-3,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}
