"""Settings that a configuration states for each layer: types, windows, flags."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from models.config.hf_config import HFConfig, quote_value
from models.errors import CheckpointError, UnsupportedModelError


def sliding_windows(
    config: HFConfig, num_layers: int, *, is_windowed: Callable[[int], bool], default: int | None = None
) -> list[int | None]:
    """Return each layer's window size, or None for full attention.

    `layer_types` says which layers have a window, or `is_windowed(index)` if that is absent. The size is the field
    `sliding_window`, or `default` without the field. No layer has a window if neither is given or the field is null.
    """
    if config.is_null("sliding_window") or (default is None and not config.has("sliding_window")):
        return [None] * num_layers
    window = config.integer("sliding_window", default)
    types = layer_types(config, num_layers)
    if types is None:
        return [window if is_windowed(index) else None for index in range(num_layers)]
    return [window if kind == "sliding_attention" else None for kind in types]


def sparse_layers(config: HFConfig, num_layers: int, default_dense: int) -> list[bool]:
    """Return whether each layer has experts.

    `mlp_layer_types` says so, or all layers have experts except the first `first_k_dense_replace` (or `default_dense`).
    """
    types = layer_types(config, num_layers, "mlp_layer_types")
    if types is None:
        num_dense = config.integer("first_k_dense_replace", default_dense, minimum=0)
        return [index >= num_dense for index in range(num_layers)]
    if unknown := set(types) - {"dense", "sparse"}:
        raise UnsupportedModelError(
            f"{config.source}: mlp_layer_types has {sorted(unknown)[0]!r}; supported are 'dense' and 'sparse'"
        )
    return [kind == "sparse" for kind in types]


def layer_types(config: HFConfig, num_layers: int, name: str = "layer_types") -> list[str] | None:
    """Return each layer's type, such as "full_attention", or None if the configuration does not list them."""
    if not config.has(name):
        return None
    types = config.raw(name)
    if not isinstance(types, list) or len(types) < num_layers or not all(isinstance(kind, str) for kind in types):
        raise CheckpointError(
            f"{config.source}: {name} is not a list of {num_layers} kinds; "
            "fetch the checkpoint's own configuration again"
        )
    return types[:num_layers]


def layer_configs(config: HFConfig, num_layers: int, usual: Mapping[int, Mapping[str, Any]]) -> list[HFConfig]:
    """Return the configuration of each layer: the fields of `config`, and those that the layer has of its own.

    `per_layer_config`, with objects by the layer's number, says which those are, or `usual` if it is absent.
    """
    stated = config.raw("per_layer_config")
    if stated is None:
        stated = usual
    numbers = set(map(str, range(num_layers)))
    if not isinstance(stated, Mapping) or not all(
        str(name) in numbers and isinstance(fields, Mapping) for name, fields in stated.items()
    ):
        raise CheckpointError(
            f"{config.source}: per_layer_config is {quote_value(stated)}; it must have objects by numbers below "
            f"{num_layers}; {config.remedy}"
        )
    own = {str(name): fields for name, fields in stated.items()}
    return [
        dataclasses.replace(config, fields={**config.fields, **own.get(str(index), {})}) for index in range(num_layers)
    ]


def rope_layers(config: HFConfig, num_layers: int) -> list[bool]:
    """Return whether each layer has a rotary embedding, by Llama 4's fields.

    `no_rope_layers` has a 1 for each layer with a rotary embedding, despite its name. If it is absent or empty, all
    layers have a rotary embedding except every `no_rope_layer_interval`-th, by default every fourth.
    """
    interval = config.integer("no_rope_layer_interval", 4)
    flags = config.raw("no_rope_layers")
    if not flags:
        return [(index + 1) % interval != 0 for index in range(num_layers)]
    if not isinstance(flags, list) or len(flags) < num_layers or not all(flag in (0, 1) for flag in flags):
        raise CheckpointError(
            f"{config.source}: no_rope_layers is not a list of {num_layers} times 0 or 1; "
            "fetch the checkpoint's own configuration again"
        )
    return [bool(flag) for flag in flags[:num_layers]]
