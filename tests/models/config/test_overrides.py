"""User overrides of the configuration's fields: merged in its own layout, and read or refused."""

import json
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType

from models.architecture.decoder import DecoderSpec
from models.architecture.positions import DynamicScaling, LinearScaling, YarnScaling
from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.config.hf_config import HFConfig
from models.config.overrides import override, parse_overrides
from models.errors import ModelError, SettingError, UnsupportedModelError
from models.families import gemma, llama, mistral
from models.families.gguf_config import gguf_config
from tests.helpers.checkpoints import llama_config, random_model
from tests.helpers.gguf_writer import write_gguf

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "hidden_act": "silu",
    "max_position_embeddings": 256,
}
# The two ways of one configuration: before transformers 5, and since.
OLD = {**SIZES, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
NEW = {**SIZES, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
YARN = {"rope_type": "yarn", "factor": 4.0}
WINDOWED = {
    **SIZES,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}


def described(fields: dict, describe=llama.describe, **overrides: object) -> DecoderSpec:
    overridden = override(HFConfig(fields, "config.json"), overrides)
    spec: DecoderSpec = describe(overridden.config)
    overridden.refuse_unread("Any")
    return spec


@pytest.mark.parametrize("fields", [OLD, NEW])
@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
def test_scaling_takes_the_place_of_the_stored_one_and_keeps_theta(fields: dict, name: str) -> None:
    spec = described(fields, **{name: YARN})

    rope = spec.layers[0].rope
    assert rope is not None
    assert rope.theta == 5e5
    assert isinstance(rope.scaling, YarnScaling)
    assert (rope.scaling.factor, rope.scaling.original_max_position) == (4.0, 256)


@pytest.mark.parametrize("fields", [OLD, NEW])
def test_scaling_may_state_theta(fields: dict) -> None:
    spec = described(fields, rope_parameters={"rope_type": "default", "rope_theta": 1e6})

    assert (spec.layers[0].rope.theta, spec.layers[0].rope.scaling) == (1e6, None)


@pytest.mark.parametrize("fields", [OLD, NEW])
def test_theta_alone_keeps_the_scaling(fields: dict) -> None:
    spec = described(fields, rope_theta=1e6)

    assert (spec.layers[0].rope.theta, spec.layers[0].rope.scaling) == (1e6, LinearScaling(2.0))


@pytest.mark.parametrize("fields", [OLD, NEW])
def test_null_switches_the_scaling_off(fields: dict) -> None:
    assert described(fields, rope_scaling=None).layers[0].rope.scaling is None


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 1024),
        ({"rope_type": "dynamic", "factor": 4.0}, 1024),
        ({"rope_type": "yarn", "factor": 4.0}, 1024),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 1.5, "original_max_position_embeddings": 128}, 256),
    ],
)
def test_scaling_raises_the_context_length(scaling: dict, longest: int) -> None:
    assert described(NEW, rope_scaling=scaling).max_position == longest


def test_stated_length_is_not_stretched() -> None:
    spec = described(OLD, rope_scaling={"rope_type": "linear", "factor": 4.0}, max_position_embeddings=600)

    assert spec.max_position == 600


def test_scaling_of_a_model_with_kinds_of_layers_is_for_full_attention() -> None:
    spec = described(
        {**WINDOWED, "sliding_window": 16},
        gemma.describe_gemma3,
        rope_scaling={"rope_type": "dynamic", "factor": 2.0},
    )

    ropes = {layer.attention.sliding_window: layer.rope for layer in spec.layers}
    assert ropes[None].scaling == DynamicScaling(2.0, 256)
    assert (ropes[None].theta, ropes[16].theta, ropes[16].scaling) == (1e6, 1e4, None)


def test_scaling_by_kind_needs_a_configuration_that_has_kinds() -> None:
    with pytest.raises(ModelError, match="one scaling for all layers"):
        described(OLD, rope_scaling={"full_attention": YARN})


def test_other_fields_are_replaced() -> None:
    spec = described({**SIZES, "sliding_window": 16}, mistral.describe, sliding_window=32)

    assert spec.layers[0].attention.sliding_window == 32


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"sliding_windw": 3}, "sliding_windw"),
        ({"max_model_len": 4096}, "max_model_len"),
        ({"rope_scaling": {**YARN, "low_freq_factor": 1.0}}, "rope_parameters.low_freq_factor"),
    ],
)
def test_field_that_nothing_reads_is_refused_by_name(overrides: dict, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=rf"states {name}, which is not used for Any"):
        described(NEW, **overrides)


def test_wrong_value_is_refused_with_its_source() -> None:
    with pytest.raises(ModelError, match=r"or --rope-scaling.*factor is 'x'.*correct what is given"):
        described(NEW, rope_scaling={"rope_type": "linear", "factor": "x"})


def test_gguf_takes_a_scaling(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(random_model(llama_config()), path, GGMLQuantizationType.F32)
    stored = gguf_config(GGUFCheckpoint([path]))

    spec = described(dict(stored.fields), rope_scaling=YARN)

    longest = llama.describe(stored).max_position
    assert isinstance(spec.layers[0].rope.scaling, YarnScaling)
    assert (spec.layers[0].rope.scaling.original_max_position, spec.max_position) == (longest, 4 * longest)
    assert spec.layers[0].rope.theta == llama.describe(stored).layers[0].rope.theta


@pytest.mark.parametrize(
    ("hf_overrides", "rope_scaling", "rope_theta", "message"),
    [
        ("{", None, None, "--hf-overrides is not JSON"),
        ("[" * 100_000, None, None, "--hf-overrides is not JSON"),
        (None, "4", None, "--rope-scaling must be a JSON object, such as"),
        (json.dumps({"rope_parameters": YARN}), json.dumps(YARN), None, "--rope-scaling and rope_parameters"),
        (json.dumps({"rope_theta": 1e4}), None, 1e5, "--rope-theta and rope_theta"),
    ],
)
def test_options_that_will_not_do_are_refused(
    hf_overrides: str | None, rope_scaling: str | None, rope_theta: float | None, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        parse_overrides(hf_overrides, rope_scaling, rope_theta)


def test_both_names_of_a_scaling_at_once_are_refused() -> None:
    with pytest.raises(ModelError, match="are the same; leave out one"):
        described(NEW, rope_scaling=YARN, rope_parameters=YARN)


def test_options_become_fields() -> None:
    fields = parse_overrides('{"sliding_window": 8}', json.dumps(YARN), 1e5)

    assert fields == {"sliding_window": 8, "rope_scaling": YARN, "rope_theta": 1e5}
