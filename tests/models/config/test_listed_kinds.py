"""Lists of layers in configurations: another length than the layers, and unknown kinds, are refused."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from models.config.hf_config import HFConfig
from models.config.layers import (
    kinds_of_layers,
    layer_types,
    listed_kinds,
    rope_layers,
    sliding_windows,
    sparse_layers,
)
from models.errors import CheckpointError

pytestmark = pytest.mark.fast

KINDS = {"conv": "conv", "full_attention": "full"}


def config(**fields: Any) -> HFConfig:
    return HFConfig(fields, "config.json")


def windows(given: HFConfig, num_layers: int) -> list[int | None]:
    return sliding_windows(given, num_layers, is_windowed=lambda _: True)


@pytest.mark.parametrize(
    ("read", "fields", "message"),
    [
        (windows, {"layer_types": ["full_attention"]}, "layer_types lists 1 layers; the model has 2"),
        (windows, {"layer_types": ["full_attention"] * 3}, "layer_types lists 3 layers; the model has 2"),
        (windows, {"layer_types": "full_attention"}, "layer_types lists 14 layers; the model has 2"),
        (windows, {"layer_types": 2}, "layer_types lists 2; the model has 2"),
        (
            windows,
            {"layer_types": ["full_attention", "rwkv"], "sliding_window": 8},
            "layer 1 of layer_types is 'rwkv'; known are 'sliding_attention', 'full_attention'",
        ),
        (windows, {"layer_types": ["full_attention", None]}, "layer 1 of layer_types is None; known are"),
        (
            lambda given, count: sparse_layers(given, count, 1),
            {"mlp_layer_types": ["dense", "wide"]},
            "layer 1 of mlp_layer_types is 'wide'; known are 'dense', 'sparse'",
        ),
        (
            lambda given, count: sparse_layers(given, count, 1),
            {"moe_layer_freq": [0, 2]},
            "layer 1 of moe_layer_freq is 2; known are 0, 1",
        ),
        (
            lambda given, count: kinds_of_layers(given, count, tuple(KINDS), lambda _: "conv", numbered="numbers"),
            {"numbers": [0, "1"]},
            "layer 1 of numbers is '1'; known are 0, 1",
        ),
        (rope_layers, {"no_rope_layers": [1, 1, 1]}, "no_rope_layers is not a list of 2 times 0 or 1"),
        (
            lambda given, count: listed_kinds(given, "hybrid_override_pattern", count, {"M": "space", "*": "full"}),
            {"hybrid_override_pattern": "M*M", "num_nextn_predict_layers": 2},
            "hybrid_override_pattern lists 3 layers; the model has 2",
        ),
    ],
)  # fmt: skip
def test_lists_that_contradict_the_layers_are_refused(
    read: Callable[[HFConfig, int], object], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=f"config.json: {re.escape(message)}.*fetch"):
        read(config(**fields), 2)


def test_lists_may_go_on_with_layers_for_multi_token_prediction() -> None:
    given = config(layer_types=["conv", "full_attention", "full_attention"], num_nextn_predict_layers=1)

    assert layer_types(given, 2, KINDS) == ["conv", "full"]


def test_attention_is_an_old_name_of_full_attention() -> None:
    assert layer_types(config(layer_types=["conv", "attention"]), 2, KINDS) == ["conv", "full"]


def test_kinds_are_listed_by_name_or_number_or_follow_a_rule() -> None:
    def kinds(**fields: Any) -> list[str]:
        return kinds_of_layers(config(**fields), 3, ("a", "b"), lambda index: "ab"[index % 2], numbered="numbers")

    assert kinds() == ["a", "b", "a"]
    assert kinds(numbers=[1, 1, 0]) == ["b", "b", "a"]
    assert kinds(numbers=[0, 0, 0], layer_types=["b", "b", "a"]) == ["b", "b", "a"]


def test_layers_with_experts_are_listed_by_name_or_number_or_follow_the_dense_ones() -> None:
    assert sparse_layers(config(moe_layer_freq=[0, 1, 0]), 3, 1) == [False, True, False]
    assert sparse_layers(config(moe_layer_freq=1), 3, 1) == [False, True, True]
    assert sparse_layers(config(mlp_layer_types=["sparse", "dense"], moe_layer_freq=[0, 1]), 2, 1) == [True, False]


def test_layers_that_are_not_listed_have_no_types() -> None:
    assert layer_types(config(), 2, KINDS) is None
