"""Settings that a configuration states for each layer: types, windows, flags."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.architecture.decoder import DecoderSpec
from models.config.hf_config import HFConfig, quote_value
from models.errors import CheckpointError

_FETCH = "fetch the checkpoint's own configuration again"
_NUMBER = re.compile("[0-9]{1,6}")
_WINDOWED = {"sliding_attention": "sliding_attention", "full_attention": "full_attention"}
# Numbers of layers for multi-token prediction, which lists of layers may include.
_PREDICTING = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")


def sliding_windows(
    config: HFConfig, num_layers: int, *, is_windowed: Callable[[int], bool], default: int | None = None
) -> list[int | None]:
    """Return each layer's window size, or None for full attention.

    `layer_types` says which layers have a window, or `is_windowed(index)` if that is absent. The size is the field
    `sliding_window`, or `default` without the field. No layer has a window if neither is given or the field is null.
    """
    types = layer_types(config, num_layers, _WINDOWED)
    if config.is_null("sliding_window") or (default is None and not config.has("sliding_window")):
        return [None] * num_layers
    window = config.integer("sliding_window", default)
    if types is None:
        return [window if is_windowed(index) else None for index in range(num_layers)]
    return [window if kind == "sliding_attention" else None for kind in types]


def windows_of_kinds(config: HFConfig, kinds: Sequence[str], default: int) -> list[int | None]:
    """Return each layer's window size: `sliding_window`, or `default` without the field, for the kind
    "sliding_attention", and None for others. Raises CheckpointError if the field is null and a layer needs it."""
    if config.is_null("sliding_window") and "sliding_attention" in kinds:
        raise CheckpointError(
            f"{config.source}: sliding_window is null, and layers of the type sliding_attention need one; "
            f"{config.remedy}"
        )
    window = config.integer("sliding_window", default)
    return [window if kind == "sliding_attention" else None for kind in kinds]


def sparse_layers(config: HFConfig, num_layers: int, default_dense: int) -> list[bool]:
    """Return whether each layer has experts.

    `mlp_layer_types` says so, or 0 and 1 in `moe_layer_freq` if that is a list, or all layers have experts except the
    first `first_k_dense_replace` (or `default_dense`).
    """
    types = layer_types(config, num_layers, {"dense": "dense", "sparse": "sparse"}, "mlp_layer_types")
    if types is None and isinstance(config.raw("moe_layer_freq"), list):
        types = listed_kinds(config, "moe_layer_freq", num_layers, {0: "dense", 1: "sparse"})
    if types is None:
        num_dense = config.integer("first_k_dense_replace", default_dense, minimum=0)
        return [index >= num_dense for index in range(num_layers)]
    return [kind == "sparse" for kind in types]


def kinds_of_layers(
    config: HFConfig, num_layers: int, kinds: Sequence[str], usual: Callable[[int], str], *, numbered: str | None = None
) -> list[str]:
    """Return the kind of each layer, one of `kinds`.

    `layer_types` lists them, or the field `numbered`, with the index of a kind for each layer; `usual(index)` is the
    kind if both are absent.
    """
    if numbered is not None and config.has(numbered) and not config.has("layer_types"):
        return listed_kinds(config, numbered, num_layers, dict(enumerate(kinds)))
    listed = layer_types(config, num_layers, {kind: kind for kind in kinds})
    return listed or [usual(index) for index in range(num_layers)]


def layer_types(
    config: HFConfig, num_layers: int, kinds: Mapping[str, str], name: str = "layer_types"
) -> list[str] | None:
    """Return each layer's kind, or None if the configuration does not list them. kinds, errors: as in `listed_kinds`.

    "attention" is an old name of "full_attention".
    """
    if not config.has(name):
        return None
    if "full_attention" in kinds:
        kinds = {**kinds, "attention": kinds["full_attention"]}
    return listed_kinds(config, name, num_layers, kinds)


def listed_kinds(config: HFConfig, field: str, num_layers: int, kinds: Mapping[Any, str]) -> list[str]:
    """Return the kind of each layer, which `field` lists. kinds: the field's values -> kinds.

    The list may continue with the layers for multi-token prediction, if the configuration counts them. Raises
    CheckpointError for another length, or a value that `kinds` lacks.
    """
    listed = config.raw(field)
    if isinstance(listed, str):
        listed = list(listed)
    lengths = {num_layers, *(num_layers + config.integer(name, 0, minimum=0) for name in _PREDICTING)}
    if not isinstance(listed, list) or len(listed) not in lengths:
        found = f"{len(listed)} layers" if isinstance(listed, list) else quote_value(listed)
        raise CheckpointError(f"{config.source}: {field} lists {found}; the model has {num_layers}; {_FETCH}")
    for index, value in enumerate(listed[:num_layers]):
        if not isinstance(value, str | int) or value not in kinds:
            known = ", ".join(map(repr, kinds))
            raise CheckpointError(
                f"{config.source}: layer {index} of {field} is {quote_value(value)}; known are {known}; {_FETCH}"
            )
    return [kinds[value] for value in listed[:num_layers]]


def layer_configs(config: HFConfig, num_layers: int, usual: Mapping[int, Mapping[str, Any]]) -> list[HFConfig]:
    """Return the configuration of each layer: the fields of `config`, and those that the layer has of its own.

    `per_layer_config`, with objects by the layer's number, says which those are, or `usual` if it is absent.
    """
    stated = config.raw("per_layer_config")
    if stated is None:
        stated = usual
    by_number = isinstance(stated, Mapping) and all(
        _NUMBER.fullmatch(str(name)) and int(name) < num_layers and isinstance(fields, Mapping)
        for name, fields in stated.items()
    )
    own = {int(name): fields for name, fields in stated.items()} if by_number else {}  # transformers writes "05"
    if not by_number or len(own) < len(stated):
        raise CheckpointError(
            f"{config.source}: per_layer_config is {quote_value(stated)}; it must have objects by numbers below "
            f"{num_layers}; {config.remedy}"
        )
    return [config.with_fields(own.get(index, {})) for index in range(num_layers)]


def with_shared_kv(config: HFConfig, spec: DecoderSpec, default: int = 0) -> DecoderSpec:
    """Return `spec` with the layers whose keys and values others read.

    The last `num_kv_shared_layers` (or `default`) read what the last layer before them with the same window stores.
    """
    attention = [layer.attention for layer in spec.layers]
    count = len(attention)
    num_shared = config.integer("num_kv_shared_layers", default, minimum=0, maximum=count)
    owners = {each.sliding_window: index for index, each in enumerate(attention[: count - num_shared])}
    donors: list[int | None] = [None] * count
    for index in range(count - num_shared, count):
        window = attention[index].sliding_window
        donor = owners.get(window)
        if donor is None:
            kind = "full attention" if window is None else f"a window of {window}"
            raise CheckpointError(
                f"{config.source}: num_kv_shared_layers {num_shared} of {count} layers leaves none with {kind} that "
                f"has keys and values for layer {index}; {config.remedy}"
            )
        own, read = ((each.num_kv_heads, each.head_dim) for each in (attention[index], attention[donor]))
        if own != read:
            raise CheckpointError(
                f"{config.source}: num_kv_shared_layers {num_shared}: layer {index} cannot read the keys and values of "
                f"layer {donor}: {own[0]} heads of {own[1]} are not {read[0]} of {read[1]}; {config.remedy}"
            )
        donors[index] = donor
    return spec.map_layers(lambda index, layer: dataclasses.replace(layer, kv_layer=donors[index]))


def by_layer(config: HFConfig, name: str, num_layers: int) -> list[Any] | None:
    """Return each layer's value of a field that is a list, or one value for all layers; None if it is absent."""
    value = config.raw(name)
    if value is None:
        return None
    values = value if isinstance(value, list) else [value] * num_layers
    if len(values) != num_layers:
        raise CheckpointError(
            f"{config.source}: {name} lists {len(values)} layers; there are {num_layers}; {config.remedy}"
        )
    return values


def integers_by_layer(config: HFConfig, name: str, num_layers: int, default: int) -> list[int]:
    """Return each layer's value of a field that is an integer above 0 or a list of them; `default` if it is absent."""
    values = by_layer(config, name, num_layers) or [default] * num_layers
    return [config.with_fields({name: value}).integer(name) for value in values]


def rope_layers(config: HFConfig, num_layers: int) -> list[bool]:
    """Return whether each layer has a rotary embedding, by Llama 4's fields.

    `no_rope_layers` has a 1 for each layer with a rotary embedding, despite its name. If it is absent or empty, all
    layers have a rotary embedding except every `no_rope_layer_interval`-th, by default every fourth.
    """
    interval = config.integer("no_rope_layer_interval", 4)
    flags = config.raw("no_rope_layers")
    if not flags:
        return [(index + 1) % interval != 0 for index in range(num_layers)]
    if not isinstance(flags, list) or len(flags) != num_layers or not all(flag in (0, 1) for flag in flags):
        raise CheckpointError(f"{config.source}: no_rope_layers is not a list of {num_layers} times 0 or 1; {_FETCH}")
    return [bool(flag) for flag in flags]
