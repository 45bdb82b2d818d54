"""HFConfig: checked fields, rotary settings of old and new configurations, and what families make of them."""

import json
import math
from pathlib import Path

import pytest

from models.architecture.feed_forward import Activation
from models.architecture.positions import LinearScaling, Llama3Scaling, RopeSpec
from models.config.hf_config import HFConfig, read_json_config
from models.config.rope import rope_spec, ropes_by_type
from models.errors import CheckpointError, UnsupportedModelError
from models.families import gpt2, llama, mistral, qwen2
from models.families.registry import architecture_of_gguf, family_of

LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "hidden_act": "silu",
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config(**fields: object) -> HFConfig:
    return HFConfig(fields, "config.json")


@pytest.mark.parametrize("value", ["5", 5.0, True, 0, -1, 10**400, [5], {}])
def test_integer_refuses_what_is_no_size(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: n is .*must be an integer from 1"):
        config(n=value).integer("n")


@pytest.mark.parametrize("value", ["1", True, 0, -1.0, float("nan"), float("inf"), 10**400])
def test_number_refuses_what_is_no_positive_number(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: x is .*must be a number above 0"):
        config(x=value).number("x")


def test_null_counts_as_absent() -> None:
    assert config(n=None).integer("n", 7) == 7
    with pytest.raises(CheckpointError, match="has no 'n'"):
        config(n=None).integer("n")


@pytest.mark.parametrize(("value", "ids"), [(None, []), (2, [2]), ([2, 5], [2, 5])])
def test_token_ids_takes_one_several_or_none(value: object, ids: list[int]) -> None:
    assert config(eos_token_id=value).token_ids("eos_token_id") == ids


def test_copies_replace_fields_or_add_those_that_are_absent() -> None:
    given = config(a=1, b=None)

    assert given.with_fields({"a": 2, "c": 3}).fields == {"a": 2, "b": None, "c": 3}
    assert given.with_defaults({"a": 2, "b": 2, "c": 3}).fields == {"a": 1, "b": None, "c": 3}
    assert given.fields == {"a": 1, "b": None}


def test_renamed_fields_are_read_under_the_new_name_and_named_by_the_files() -> None:
    given = config(own=0, sizes={"heads": "four"}, kept=5)

    renamed = given.renamed({"n": "own", "num_heads": "sizes.heads", "kept": "absent", "other": "absent.too"})

    assert (renamed.raw("n"), renamed.raw("num_heads")) == (0, "four")
    assert (renamed.integer("kept"), renamed.has("other")) == (5, False)
    assert {"own", "sizes.heads"} <= given.reads
    with pytest.raises(CheckpointError, match=r"config\.json: own is 0; it must be an integer"):
        renamed.integer("n")
    with pytest.raises(CheckpointError, match=r"config\.json: sizes\.heads is 'four'; it must be an integer"):
        renamed.integer("num_heads")
    with pytest.raises(CheckpointError, match=r"config\.json: own is 0; it must be an object"):
        given.renamed({"n": "own.size"})


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000])
def test_file_without_a_json_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_json_config(tmp_path / "config.json")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_json_config(tmp_path / "config.json")


def test_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["X"], "n": 3}))

    read = read_json_config(tmp_path / "config.json")

    assert (read.architecture(), read.integer("n")) == ("X", 3)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, RopeSpec(64, 10000.0)),
        ({"rope_theta": 5e5}, RopeSpec(64, 5e5)),
        ({"rope_theta": 5e5, "rope_scaling": None}, RopeSpec(64, 5e5)),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, RopeSpec(64, 10000.0, LinearScaling(2.0))),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, RopeSpec(64, 5e5)),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2}}, RopeSpec(64, 10000.0, LinearScaling(2.0))),
        ({"partial_rotary_factor": 0.5}, RopeSpec(32, 10000.0)),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            RopeSpec(64, 5e5, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
            RopeSpec(64, 5e5, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ),
    ],
)
def test_rotary_settings_of_old_and_new_configurations(fields: dict, expected: RopeSpec) -> None:
    assert rope_spec(config(**fields), 64) == expected


@pytest.mark.parametrize(
    ("fields", "full", "windowed"),
    [
        ({}, RopeSpec(32, 1e6), RopeSpec(32, 1e4)),
        ({"rope_theta": 5e5, "own_theta": 2e4}, RopeSpec(32, 5e5), RopeSpec(32, 2e4)),
        ({"rope_theta": 5e5, "own_theta": None}, RopeSpec(32, 5e5), RopeSpec(32, 5e5)),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            RopeSpec(32, 1e6, LinearScaling(2.0)),
            RopeSpec(32, 1e4),
        ),
        (
            {
                "own_theta": 2e4,
                "rope_parameters": {
                    "full_attention": {"rope_theta": 5e5, "partial_rotary_factor": 1.0},
                    "sliding_attention": {"rope_type": "linear", "factor": 2.0},
                },
            },
            RopeSpec(64, 5e5),
            RopeSpec(32, 1e4, LinearScaling(2.0)),
        ),
    ],
)
def test_layers_with_a_window_have_a_theta_of_their_own(fields: dict, full: RopeSpec, windowed: RopeSpec) -> None:
    ropes = ropes_by_type(config(**fields), 64, window_theta="own_theta", default_theta=1e6, default_share=0.5)

    assert ropes == {"full_attention": full, "sliding_attention": windowed}


def test_unknown_rotary_scaling_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match="'shortrope' is not supported"):
        rope_spec(config(rope_scaling={"rope_type": "shortrope"}), 64)


@pytest.mark.parametrize("share", [1.5, 0.01, 3 / 64])
def test_odd_or_empty_rotation_is_refused(share: float) -> None:
    with pytest.raises(CheckpointError, match="partial_rotary_factor"):
        rope_spec(config(partial_rotary_factor=share), 64)


@pytest.mark.parametrize("factors", [[1.0] * 31, [1.0] * 31 + [0.0], [1.0] * 31 + [float("nan")]])
def test_frequency_factors_that_cannot_divide_are_refused(factors: list[float]) -> None:
    with pytest.raises(CheckpointError, match="factors"):
        rope_spec(config(rope_parameters={"rope_type": "factors", "factors": factors}), 64)


# --- families --------------------------------------------------------------------------------------------------------


def test_llama_defaults_of_fields_that_old_checkpoints_lack() -> None:
    spec = llama.describe(config(**LLAMA))

    layer = spec.layers[0]
    assert (layer.attention.num_kv_heads, layer.attention.head_dim) == (4, 16)
    assert (layer.has_qkv_bias, layer.mlp.has_up_bias, spec.has_tied_head) == (False, False, False)


def test_unknown_activation_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match="'mish'; supported are"):
        llama.describe(config(**{**LLAMA, "hidden_act": "mish"}))


@pytest.mark.parametrize("changes", [{"num_key_value_heads": 3}, {"num_hidden_layers": 10**6}, {"hidden_size": 2}])
def test_llama_sizes_that_cannot_be_true_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(CheckpointError):
        llama.describe(config(**{**LLAMA, **changes}))


def test_gpt2_sizes_that_cannot_be_true_are_refused() -> None:
    with pytest.raises(CheckpointError, match="n_embd 64 is not a multiple of n_head 5"):
        gpt2.describe(config(n_embd=64, n_head=5, n_layer=1, vocab_size=9, activation_function="gelu_new"))


def test_gpt2_is_described_by_its_own_field_names() -> None:
    spec = gpt2.describe(config(n_embd=64, n_head=4, n_layer=3, vocab_size=9, activation_function="gelu_new"))

    assert (len(spec.layers), spec.max_position, spec.layers[0].mlp.intermediate_size) == (3, 1024, 256)
    assert (spec.has_learned_positions, spec.has_tied_head) == (True, True)
    assert spec.layers[0].mlp.activation is Activation.GELU_TANH


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, [None, None]),
        ({"sliding_window": 8, "use_sliding_window": False}, [None, None]),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, [None, 8]),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}, [None, None]),
    ],
)
def test_qwen2_windows_only_upper_layers_when_asked(changes: dict, windows: list[int | None]) -> None:
    spec = qwen2.describe(config(**LLAMA, **changes))

    assert [layer.attention.sliding_window for layer in spec.layers] == windows


def test_a_window_that_is_null_is_none_and_one_that_is_not_stated_is_usual() -> None:
    layers = [mistral.describe(config(**LLAMA, **changes)).layers[0] for changes in ({}, {"sliding_window": None})]

    assert [layer.attention.sliding_window for layer in layers] == [4096, None]


@pytest.mark.parametrize("text", ["Infinity", '{"__float__": "Infinity"}'])
def test_infinities_are_read_as_transformers_writes_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(f'{{"time_step_limit": [0.0, {text}], "rope": {{"__float__": "other"}}}}')

    read = read_json_config(path)

    assert read.raw("time_step_limit") == [0.0, math.inf]
    assert read.raw("rope") == {"__float__": "other"}


def test_integers_are_listed_once_by_the_names_in_the_file() -> None:
    renamed = config(num_heads=3, n_groups=2, layers=4).renamed({"mamba_n_heads": "num_heads"})
    for name in ("mamba_n_heads", "n_groups", "layers"):
        renamed.integer(name)

    assert renamed.list_integers("heads|groups") == " (num_heads 3, n_groups 2)"


# --- registry --------------------------------------------------------------------------------------------------------


def test_unknown_architecture_is_refused_with_the_supported_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'Qwen9ForCausalLM' is not supported; nearest .*Qwen2ForCausalLM"):
        family_of("Qwen9ForCausalLM")
    with pytest.raises(UnsupportedModelError, match=r"'qwen9' is not supported; nearest .*qwen"):
        architecture_of_gguf("qwen9", {})


@pytest.mark.parametrize("value", [None, [], "LlamaForCausalLM", [3]])
def test_config_without_an_architecture_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match="architectures"):
        config(architectures=value).architecture()
