"""Settings of single layers in a configuration."""

import pytest

from models.config.hf_config import HFConfig
from models.config.layers import integers_by_layer, layer_configs, windows_of_kinds
from models.errors import CheckpointError

pytestmark = pytest.mark.fast


def sizes(fields: dict[str, object]) -> list[int]:
    usual = {1: {"head_dim": 512}}
    return [each.integer("head_dim") for each in layer_configs(HFConfig(fields, "config.json"), 3, usual)]


def test_layers_have_the_fields_that_they_state() -> None:
    assert sizes({"head_dim": 64}) == [64, 512, 64]
    assert sizes({"head_dim": 64, "per_layer_config": {"2": {"head_dim": 128}}}) == [64, 64, 128]


def test_a_layer_s_number_may_begin_with_zeros() -> None:
    """As transformers saves models with ten layers or more."""
    assert sizes({"head_dim": 64, "per_layer_config": {"02": {"head_dim": 128}}}) == [64, 64, 128]


@pytest.mark.parametrize(("stated", "expected"), [(None, [5, 5]), (7, [7, 7]), ([7, 9], [7, 9])])
def test_sizes_of_layers_are_one_or_a_list(stated: object, expected: list[int]) -> None:
    assert integers_by_layer(HFConfig({"size": stated}, "config.json"), "size", 2, 5) == expected


@pytest.mark.parametrize("stated", [[7, 0], [7, None], [7], 0, "x"])
def test_a_size_of_a_layer_that_cannot_be_is_refused(stated: object) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json.* .?size.?"):
        integers_by_layer(HFConfig({"size": stated}, "config.json"), "size", 2, 5)


def test_windows_have_the_stated_size_or_the_family_s() -> None:
    def windows(**fields: object) -> list[int | None]:
        return windows_of_kinds(HFConfig(fields, "config.json"), ["full_attention", "sliding_attention"], 512)

    assert windows() == [None, 512]
    assert windows(sliding_window=8) == [None, 8]
    with pytest.raises(CheckpointError, match=r"config\.json: sliding_window is null, and layers of the type"):
        windows(sliding_window=None)
    assert windows_of_kinds(HFConfig({"sliding_window": None}, "config.json"), ["full_attention"], 512) == [None]


@pytest.mark.parametrize(
    "stated", [[], "x", {"0": 3}, {"3": {}}, {"-1": {}}, {"1": {}, "01": {}}, {"full_attention": {}}]
)
def test_fields_of_layers_that_do_not_exist_are_refused(stated: object) -> None:
    with pytest.raises(CheckpointError, match=r"per_layer_config is .*must have objects by numbers below 3"):
        sizes({"head_dim": 64, "per_layer_config": stated})
