"""GGUFMetadata and the registry's GGUF architectures: what is read, what is refused."""

import dataclasses
from pathlib import Path

import pytest
import torch

from models.checkpoints.base import StoredTensor
from models.checkpoints.gguf.fields import layer_counts, num_layers, per_layer_config, window_fields, with_largest
from models.checkpoints.gguf.metadata import GGUFMetadata, gguf_metadata
from models.checkpoints.gguf.rope import rope_parameters, rope_parameters_by_layer
from models.errors import CheckpointError, UnsupportedModelError
from models.families.registry import FAMILIES, architecture_of_gguf, family_of


def metadata(**values: object) -> GGUFMetadata:
    own = {f"llama.{name.replace('__', '.')}": value for name, value in values.items()}
    return gguf_metadata("llama", {"general.architecture": "llama", **own}, {}, "m.gguf")


def test_keys_are_read_without_their_prefix_and_named_with_it() -> None:
    assert metadata(block_count=3).integer("block_count") == 3
    with pytest.raises(CheckpointError, match=r"m\.gguf, llama\.\*: block_count is 'x'"):
        metadata(block_count="x").integer("block_count")


@pytest.mark.parametrize("value", [0, 0.0, None])
def test_zero_sizes_and_scales_mean_none(value: object) -> None:
    assert metadata(attention__sliding_window=value).size("attention.sliding_window") is None
    assert metadata(logit_scale=value).scale("logit_scale") is None


@pytest.mark.parametrize(
    ("name", "value"), [("attention__sliding_window", 8), ("logit_scale", 0.5), ("attention__causal", False)]
)
def test_decisive_metadata_that_nobody_read_are_refused(name: str, value: object) -> None:
    file = metadata(**{name: value})

    with pytest.raises(UnsupportedModelError, match=rf"{name.replace('__', '.')} is {value}, which is not supported"):
        file.refuse_unread()
    assert file.has(name.replace("__", "."))
    file.refuse_unread()


@pytest.mark.parametrize(
    ("name", "value"), [("attention__sliding_window", 0), ("logit_scale", 1.0), ("vocab_size", 9), ("my__key", 3)]
)
def test_neutral_and_informative_metadata_may_stay_unread(name: str, value: object) -> None:
    metadata(**{name: value}).refuse_unread()


@pytest.mark.parametrize(("predicting", "layers"), [(None, 3), (0, 3), (1, 2), (2, 1)])
def test_blocks_for_multi_token_prediction_are_no_layers(predicting: int | None, layers: int) -> None:
    assert num_layers(metadata(block_count=3, nextn_predict_layers=predicting)) == layers


def test_file_of_only_blocks_for_multi_token_prediction_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"nextn_predict_layers 3 must be below block_count 3"):
        num_layers(metadata(block_count=3, nextn_predict_layers=3))


@pytest.mark.parametrize("counts", [[2, 0, 2, 5], [2, 0, 2]])
def test_arrays_have_an_item_for_each_layer_or_block(counts: list[int]) -> None:
    file = metadata(block_count=4, nextn_predict_layers=1, attention__head_count_kv=counts)

    assert layer_counts(file, "attention.head_count_kv") == [2, 0, 2]


@pytest.mark.parametrize("counts", [[2, 2], [2, 2, 2, 2]])
def test_arrays_of_another_length_than_the_layers_are_refused(counts: list[int]) -> None:
    file = metadata(block_count=3, attention__head_count_kv=counts)

    with pytest.raises(CheckpointError, match=rf"head_count_kv lists {len(counts)} layers; the model has 3"):
        layer_counts(file, "attention.head_count_kv")


def test_window_pattern_of_another_length_than_the_layers_is_refused() -> None:
    file = metadata(
        block_count=3, attention__sliding_window=8, attention__sliding_window_pattern=[True, False, True, False]
    )

    with pytest.raises(CheckpointError, match="sliding_window_pattern lists 4 layers; the model has 3"):
        window_fields(file)


@pytest.mark.parametrize("pattern", [None, 2])
def test_windows_of_a_family_that_needs_a_list_must_be_listed(pattern: int | None) -> None:
    file = metadata(block_count=3, attention__sliding_window=8, attention__sliding_window_pattern=pattern)

    assert window_fields(file)["sliding_window"] == 8
    with pytest.raises(CheckpointError, match="sliding_window_pattern is not a list; the model has 3"):
        window_fields(file, must_list=True)


def test_the_largest_number_of_a_layer_stands_for_all() -> None:
    file = metadata(block_count=3, heads=[2, 0, 5], sizes=[0, 0, 0], width=7)
    largest = with_largest(file, "heads", "sizes", "width")

    assert (largest.integer("heads"), largest.size("sizes"), largest.integer("width")) == (5, None, 7)
    assert layer_counts(file, "heads") == [2, 0, 5]


def test_layers_with_a_window_may_have_heads_of_another_size() -> None:
    sizes = {"attention__head_count_kv": [2, 1], "feed_forward_length": 96}
    file = metadata(block_count=2, attention__key_length_swa=16, **sizes)

    assert per_layer_config(file, ["sliding_attention", "full_attention"], 32) == {
        0: {"head_dim": 16, "num_key_value_heads": 2, "intermediate_size": 96},
        1: {"head_dim": 32, "num_key_value_heads": 1, "intermediate_size": 96},
    }
    with pytest.raises(UnsupportedModelError, match="keys and values of different sizes"):
        per_layer_config(file.with_fields({"attention.value_length_swa": 8}), ["full_attention"] * 2, 32)


def with_factors(factors: list[float]) -> GGUFMetadata:
    name = "rope_freqs.weight"
    stored = StoredTensor(
        name, (len(factors),), "F32", 0, Path("m.gguf"), lambda dtype: torch.tensor(factors).to(dtype)
    )
    return dataclasses.replace(metadata(), tensors={name: stored})


def test_factors_of_wavelengths_may_mark_pairs_that_do_not_rotate() -> None:
    assert rope_parameters(with_factors([1.0, 2.0, 8.0, 8.0]), 8)["factors"] == [1.0, 2.0, 8.0, 8.0]
    marked = rope_parameters(with_factors([1.0, 1e30, 1e30, 1e30]), 8)
    assert (marked["rope_type"], marked["partial_rotary_factor"]) == ("proportional", 0.25)
    for factors in ([1.0, 1e30, 1.0, 1e30], [1.0, 2.0, 1e30, 1e30], [1.0, 1e30]):
        with pytest.raises(UnsupportedModelError, match="must have 4 factors, each 1, and then each above 1e"):
            rope_parameters(with_factors(factors), 8)


@pytest.mark.parametrize(
    ("stated", "share"),
    [
        ({}, 0.5),
        ({"rope__dimension_count_swa": 4}, 0.25),
        ({"attention__key_length_swa": 8}, 1.0),
        ({"attention__key_length_swa": 8, "rope__dimension_count_swa": 6}, 0.75),
    ],
)
def test_share_of_heads_that_is_rotated_in_a_window(stated: dict[str, int], share: float) -> None:
    ropes = rope_parameters_by_layer(metadata(rope__dimension_count=8, **stated), 16)

    assert ropes["full_attention"]["partial_rotary_factor"] == 0.5
    assert ropes["sliding_attention"]["partial_rotary_factor"] == share


def test_every_gguf_architecture_has_one_family_for_files_without_a_key() -> None:
    names = {entry.gguf for entry in FAMILIES.values() if entry.gguf}

    for name in names:
        assert len([entry for entry in FAMILIES.values() if entry.gguf == name and entry.gguf_key is None]) == 1, name
        architecture_of_gguf(name, {})


def test_entry_with_gguf_has_names_for_its_tensors() -> None:
    for architecture, entry in FAMILIES.items():
        assert entry.gguf is None or family_of(architecture).gguf_names is not None, architecture
