"""Configurations of state spaces: limits of steps, and contradictions that are refused before weights are read."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from transformers import PretrainedConfig

from models.architecture.decoder import DecoderSpec
from models.architecture.recurrence import StateSpaceSpec
from models.config.hf_config import HFConfig
from models.errors import CheckpointError, ModelError
from models.families.registry import family_of
from tests.helpers.checkpoints import load_folder, load_gguf, random_model
from tests.helpers.gguf_architectures import LAYOUTS
from tests.helpers.gguf_writer import write_gguf
from tests.models.families.recurrent_variants import qwen35
from tests.models.families.state_space_variants import (
    bamba,
    falcon_h1,
    granite_hybrid,
    jamba,
    mamba,
    mamba2,
    nemotron_h,
)

NAMES = {
    "bamba": "BambaForCausalLM",
    "falcon_h1": "FalconH1ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "jamba": "JambaForCausalLM",
    "mamba": "MambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
}


def spec_of(config: PretrainedConfig, **changes: Any) -> DecoderSpec:
    fields = {name: value for name, value in {**config.to_dict(), **changes}.items() if value != "left out"}
    return family_of(NAMES[config.model_type]).describe(HFConfig(fields, "config.json"))


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (granite_hybrid(), {"layer_types": ["mamba", "attention"]}, "layer_types lists 2 layers; the model has 3"),
        (granite_hybrid(), {"layer_types": ["mamba", "rwkv", "mamba"]}, "layer 1 of layer_types is 'rwkv'; known are"),
        (granite_hybrid(), {"mamba_n_heads": 5}, "5 state space heads of 32 channels are 160, and by the expansion"),
        (granite_hybrid(), {"mamba_n_groups": 3}, "3 groups do not divide 4 state space heads"),
        (granite_hybrid(), {"mamba_d_conv": 1}, "mamba_d_conv is 1; it must be an integer from 2 to 8"),
        (granite_hybrid(), {"mamba_d_conv": 9}, "mamba_d_conv is 9; it must be an integer from 2 to 8"),
        (granite_hybrid(), {"time_step_limit": [0.1]}, "time_step_limit is .0.1.; it must be two numbers"),
        (granite_hybrid(), {"time_step_limit": [0.5, 0.1]}, "time_step_limit is .0.5, 0.1.; it must be the smallest"),
        (
            bamba(),
            {"mamba_d_head": 16},
            "4 state space heads of 16 channels are 64, and by the expansion there are 128",
        ),
        (falcon_h1(), {"ssm_multipliers": [1.0, 2.0]}, "ssm_multipliers has 2 factors; it must have 5"),
        (
            falcon_h1(),
            {"attention_bias": True, "attention_in_multiplier": 0.5},
            "attention_bias with attention_in_multiplier other than 1 is not supported",
        ),
        (
            nemotron_h(),
            {"layers_block_type": "left out", "hybrid_override_pattern": "M-*MX", "num_hidden_layers": 5},
            "X",
        ),
        (nemotron_h(), {"num_hidden_layers": 4}, "layers_block_type lists 5 layers; the model has 4"),
        (nemotron_h(), {"layers_block_type": "left out", "hybrid_override_pattern": "left out"}, "has neither"),
        (
            nemotron_h(layers_block_type=["moe", "linear_attention"]),
            {"moe_latent_size": 0},
            "moe_latent_size is 0; it must be an integer from 1 to",
        ),
        (mamba2(), {"expand": 3}, "4 state space heads of 32 channels are 128, and by the expansion there are 192"),
        (mamba(), {"conv_kernel": 16}, "conv_kernel is 16; it must be an integer from 2 to 8"),
        (mamba(), {"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported is 'silu'"),
        (jamba(), {"attn_layer_offset": 3}, "attn_layer_offset 3 is not below attn_layer_period 3"),
    ],
    ids=str,
)
def test_contradictions_are_refused(config: PretrainedConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        spec_of(config, **changes)


@pytest.mark.parametrize("infinity", [math.inf, {"__float__": "Infinity"}])
def test_steps_may_have_no_upper_limit(infinity: object) -> None:
    space = spec_of(granite_hybrid(), time_step_limit=[0.01, infinity]).layers[0].mixer

    assert isinstance(space, StateSpaceSpec)
    assert (space.min_step, space.max_step) == (0.01, math.inf)


def test_letters_are_kinds_of_layers() -> None:
    spec = spec_of(
        nemotron_h(),
        layers_block_type="left out",
        hybrid_override_pattern="M-*E",
        num_hidden_layers=4,
        n_routed_experts=8,
    )

    assert [(layer.mixer is not None, layer.mlp is not None) for layer in spec.layers] == [
        *((True, False), (False, True), (True, False), (False, True))
    ]


def test_nemotron_h_does_not_raise_small_steps() -> None:
    """Unlike in transformers, whose floor of steps is in no published code."""
    space = spec_of(nemotron_h(), time_step_min=0.001).layers[0].mixer

    assert isinstance(space, StateSpaceSpec)
    assert space.min_step == 0.0


@pytest.mark.parametrize("make", [mamba2, mamba, qwen35])
def test_a_logarithm_of_a_decay_that_is_not_finite_is_refused(
    tmp_path: Path, make: Callable[[], PretrainedConfig]
) -> None:
    model = random_model(make())
    name, rates = next((name, each) for name, each in model.named_parameters() if name.endswith("A_log"))
    rates.data.flatten()[1] = 100.0
    model.save_pretrained(tmp_path)

    with pytest.raises(
        CheckpointError, match=f"'.*{name.rpartition('.layers.')[2]}' has logarithms of decays that .* 100"
    ):
        load_folder(tmp_path)


def test_a_decay_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    def grows(name: str, values: np.ndarray) -> np.ndarray:
        return np.exp(values) if name.endswith("A_log") else values

    layout = dataclasses.replace(LAYOUTS["mamba2"], finish=grows)
    write_gguf(random_model(mamba2()), tmp_path / "model.gguf", GGMLQuantizationType.F32, layout=layout)

    with pytest.raises(CheckpointError, match=r"'blk.0.ssm_a' has numbers that are not finite"):
        load_gguf([tmp_path / "model.gguf"])
