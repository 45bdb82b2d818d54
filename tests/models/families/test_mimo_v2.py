"""MiMo-V2-Flash's configuration: the spelling of the first checkpoint, and what is refused."""

import pytest

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.errors import CheckpointError
from models.families.mimo_v2 import describe
from tests.models.families.mimo_v2_variants import mimo_v2

# As XiaomiMiMo/MiMo-V2-Flash has it in place of transformers' fields.
FIRST_SPELLING = {
    "hybrid_layer_pattern": [0, 1, 1],
    "moe_layer_freq": [0, 1, 1],
    "sliding_window": 5,
    "sliding_window_size": 5,
    "swa_num_key_value_heads": 2,
    "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False,
    "rope_theta": 5_000_000,
    "swa_rope_theta": 10_000,
    "partial_rotary_factor": 0.334,
    "n_shared_experts": None,
    "routed_scaling_factor": None,
}


def described(**changes: object) -> DecoderSpec:
    return describe(HFConfig({**mimo_v2().to_dict(), **changes}, "config.json"))


def test_both_spellings_describe_one_model() -> None:
    transformers_alone = dict.fromkeys(("layer_types", "mlp_layer_types", "rope_parameters"))
    assert described(**transformers_alone, **FIRST_SPELLING) == described()


def test_layers_are_full_at_first_and_in_every_sixth_place_by_default() -> None:
    layers = described(layer_types=None, num_hidden_layers=12, mlp_layer_types=None).layers
    assert [index for index, layer in enumerate(layers) if layer.attention.sliding_window is None] == [0, 5, 11]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swa_num_key_value_heads": 3}, "3 key heads of layers with a window do not divide"),
        (
            {"layer_types": ["full_attention"] * 2 + ["linear_attention"]},
            "layer 2 .* is 'linear_attention'",
        ),
        ({"layer_types": None, "hybrid_layer_pattern": [0, 1]}, "lists 2 layers; the model has 3"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        described(**changes)
