"""Families' defaults for fields that a configuration leaves out are those of transformers' classes."""

import copy

import pytest
from transformers import PretrainedConfig

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig
from models.errors import CheckpointError
from models.families.registry import family_of
from tests.helpers.checkpoints import model_class
from tests.models.families.all_variants import ALL_VARIANTS

# Sizes that configurations state unless they are usual; a wrong size does not fit the weights.
SIZES = {"num_key_value_heads", "max_position_embeddings", "q_lora_rank"}
KINDS: dict[str, PretrainedConfig] = {}
for make in ALL_VARIANTS.values():
    config = make()
    if config.get_text_config() is config:
        KINDS.setdefault(type(config).__name__, config)


def spec_of(fields: dict, architecture: str) -> tuple[DecoderSpec, set[str]]:
    """Return the family's spec for the fields, and the fields that it read."""
    config = HFConfig(fields, "config.json")
    return family_of(architecture).describe(config), {name.partition(".")[0] for name in config.reads}


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_is_left_out_has_transformers_default(kind: str) -> None:
    config = KINDS[kind]
    architecture, fields = model_class(config).__name__, config.to_dict()
    differing = []
    for name in sorted(spec_of(fields, architecture)[1] & fields.keys() - SIZES):
        rest = {other: value for other, value in fields.items() if other != name}
        try:
            ours, _ = spec_of(rest, architecture)
        except CheckpointError:
            continue  # it has to be stated
        if ours != spec_of(type(config)(**rest).to_dict(), architecture)[0]:
            differing.append(name)

    assert differing == []


# Fields that transformers 5 has under rope_parameters, as configurations had them before.
OLD = {"rope_theta": 12345.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
OLD_NAMES: dict[str, dict[str, object]] = {
    **dict.fromkeys(("LlamaConfig", "MistralConfig", "Qwen2Config", "Qwen3Config"), OLD),
    **dict.fromkeys(("StableLmConfig", "GlmConfig", "NemotronConfig"), OLD | {"partial_rotary_factor": 0.25}),
    "GPTNeoXConfig": {"rotary_pct": 0.5, "rotary_emb_base": 5000},
    "Gemma3TextConfig": OLD | {"rope_local_base_freq": 2000.0},
    "Cohere2Config": {"rope_theta": 12345.0, "layer_types": None, "sliding_window_pattern": 2},
    "Cohere2MoeConfig": {
        "rope_theta": 12345.0,
        "layer_types": None,
        "mlp_layer_types": None,
        "first_k_dense_replace": 1,
    },
}


@pytest.mark.parametrize("kind", OLD_NAMES)
def test_old_names_mean_what_transformers_makes_of_them(kind: str) -> None:
    config = KINDS[kind]
    architecture, fields = model_class(config).__name__, config.to_dict()
    del fields["rope_parameters"]

    fields |= copy.deepcopy(OLD_NAMES[kind])  # transformers changes the objects that it is given

    ours, _ = spec_of(copy.deepcopy(fields), architecture)

    theirs, _ = spec_of(type(config)(**fields).to_dict(), architecture)
    assert ours == theirs
