"""Parity of rotary positions far out, where errors of frequencies grow to whole turns."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from models.hf_config import HFConfig
from models.layers.rope import inverse_frequencies
from models.layers.rotation import rotation
from models.rope_config import rope_spec

HEAD_DIM = 64
ORIGINAL = 8192
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
}


@pytest.mark.parametrize("name", ROPES)
def test_rotation_equals_transformers_at_far_positions(name: str) -> None:
    positions = torch.tensor([0, 1, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 2 * ORIGINAL, 131071])
    config = LlamaConfig(
        head_dim=HEAD_DIM, rope_parameters=dict(ROPES[name]), max_position_embeddings=131072, vocab_size=8
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions[None])
    spec = rope_spec(HFConfig({"rope_parameters": ROPES[name]}, "config.json"), HEAD_DIM)

    ours = rotation(positions, inverse_frequencies(spec, torch.device("cpu"), 131072))

    half = HEAD_DIM // 2  # transformers repeats the angles for the other half
    torch.testing.assert_close(ours.cos, cos[0, :, :half], rtol=0.0, atol=1e-3)
    torch.testing.assert_close(ours.sin, sin[0, :, :half], rtol=0.0, atol=1e-3)
