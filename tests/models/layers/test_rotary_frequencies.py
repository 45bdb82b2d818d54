"""Parity of rotary positions far out, where errors of frequencies grow to whole rotations."""

from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config, PretrainedConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from models.architecture.positions import RopeSpec
from models.attention.rotary import rotary_embedding
from models.config.hf_config import HFConfig
from models.config.rope import rope_spec
from models.layers.rotary_frequencies import attention_factor, inverse_frequencies

HEAD_DIM = 64
ORIGINAL, CLAIMED = 8192, 131072
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": ORIGINAL}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.01 * i for i in range(HEAD_DIM // 2)],
    "long_factor": [1.0 + i for i in range(HEAD_DIM // 2)],
    "original_max_position_embeddings": ORIGINAL,
}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0},
    "proportional": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
    "proportional-scaled": {"rope_type": "proportional", "rope_theta": 1e6, "factor": 4.0},
    "yarn": YARN,
    "yarn-not-truncated": {**YARN, "truncate": False, "beta_fast": 20.0, "beta_slow": 2.0},
    "yarn-mscale": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
    "yarn-attention-factor": {**YARN, "attention_factor": 1.3},
    "yarn-narrow-band": {**YARN, "beta_fast": 1.0, "beta_slow": 1.0, "truncate": False},
    "llama3": LLAMA3,
    "longrope": LONGROPE,
    "longrope-attention-factor": {**LONGROPE, "attention_factor": 1.2},
}
# What depends on a sequence's length in transformers depends on the longest served context here.
BY_LENGTH: dict[str, dict[str, Any]] = {
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "longrope": LONGROPE,
}


def far_positions(longest: int) -> torch.Tensor:
    """0, about the original length and twice it, and the end."""
    positions = [0, 1, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 2 * ORIGINAL, longest - 1]
    return torch.tensor([position for position in positions if position < longest])


def described(config: PretrainedConfig, **options: Any) -> RopeSpec:
    return rope_spec(HFConfig(config.to_dict(), "config.json"), HEAD_DIM, **options)


def assert_equal_angles(
    spec: RopeSpec, theirs: tuple[torch.Tensor, torch.Tensor], positions: torch.Tensor, context: int
) -> None:
    frequencies = inverse_frequencies(spec, torch.device("cpu"), context)
    ours = rotary_embedding(positions, frequencies, attention_factor(spec))
    half = theirs[0].shape[-1] // 2  # transformers repeats the angles for the other half
    assert ours.cos.shape == (len(positions), half)
    assert ours.q_scale is None
    for own, other in zip((ours.cos, ours.sin), theirs, strict=True):
        torch.testing.assert_close(own, other[0, :, :half], rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("name", ROPES)
def test_rotation_equals_transformers_at_far_positions(name: str) -> None:
    positions = far_positions(CLAIMED)
    config = LlamaConfig(head_dim=HEAD_DIM, rope_parameters=dict(ROPES[name]), max_position_embeddings=CLAIMED)

    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])

    assert_equal_angles(described(config), theirs, positions, CLAIMED)


@pytest.mark.parametrize("name", BY_LENGTH)
@pytest.mark.parametrize("served", [ORIGINAL // 2, ORIGINAL, ORIGINAL + 1, 2 * ORIGINAL, CLAIMED])
def test_rotation_by_length_is_that_of_the_longest_served(name: str, served: int) -> None:
    positions = far_positions(served)
    claimed = ORIGINAL if name == "dynamic" else CLAIMED  # transformers takes the one it scales from, or to
    config = LlamaConfig(head_dim=HEAD_DIM, rope_parameters=dict(BY_LENGTH[name]), max_position_embeddings=claimed)

    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])

    assert_equal_angles(described(config), theirs, positions, served)


@pytest.mark.parametrize(
    ("kind", "rotary", "rope"),
    [
        (Phi3Config, Phi3RotaryEmbedding, ROPES["default"]),
        (LlamaConfig, LlamaRotaryEmbedding, YARN),
        (LlamaConfig, LlamaRotaryEmbedding, LLAMA3),
    ],
)
def test_partial_rotation_equals_transformers(
    kind: type[PretrainedConfig], rotary: type[torch.nn.Module], rope: dict[str, Any]
) -> None:
    positions = far_positions(CLAIMED)
    config = kind(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        rope_parameters={**rope, "partial_rotary_factor": 0.5},
        max_position_embeddings=CLAIMED,
        pad_token_id=None,
    )

    theirs = rotary(config)(torch.zeros(1), positions[None])

    spec = described(config)
    assert spec.rotary_dim == HEAD_DIM // 2
    assert_equal_angles(spec, theirs, positions, CLAIMED)


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
def test_each_kind_of_layer_has_its_own_base_and_scaling(kind: str) -> None:
    positions = far_positions(CLAIMED)
    config = Gemma3TextConfig(
        head_dim=HEAD_DIM,
        max_position_embeddings=CLAIMED,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )

    theirs = Gemma3RotaryEmbedding(config)(torch.zeros(1), positions[None], kind)

    assert_equal_angles(described(config, layer_type=kind), theirs, positions, CLAIMED)
