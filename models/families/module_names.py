"""transformers' names of a decoder's linear layers, by which PEFT stores adapters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from models.architecture.decoder import DecoderSpec
from models.families.name_map import Destination, NameMap, Rules

_Shards = tuple[tuple[str, str | None], ...]  # (module, shard) of each destination


def kind_of_linear(name: str) -> str:
    """Return the last part of a linear layer's name, such as "q_proj", which layers of one kind share; of a number with
    the part before it, since PEFT would take "0" for a whole layer."""
    before, _, last = name.rpartition(".")
    return f"{before.rpartition('.')[2]}.{last}" if last.isdigit() else last


@dataclass(frozen=True, slots=True)
class NamedLinear:
    """A linear layer of transformers' model, and its destinations in the decoder: several if its rows are split."""

    name: str  # "model.layers.3.self_attn.q_proj"
    destinations: tuple[Destination, ...]

    @property
    def kind(self) -> str:
        return kind_of_linear(self.name)

    def row_orders(self, spec: DecoderSpec, num_rows: int) -> list[torch.Tensor]:
        """Return, for each destination, the indices of its rows among the layer's `num_rows` outputs; int64."""
        rows = torch.arange(num_rows)  # transforms move them like a bias
        return [destination.transformed(rows, spec) for destination in self.destinations]


def named_linears(rules: Rules, spec: DecoderSpec, shards: Mapping[str, Sequence[str]]) -> Iterator[NamedLinear]:
    """Yield the linear layers by the rules for safetensors, layer by layer, without experts.

    shards: the names of the shards of each linear layer in the decoder; empty for a layer without shards. Rules also
    cover other configurations and model classes, so several names may have the same destination. Of these, the last is
    used: a family adds its own names after those of the family that it extends.
    """
    names = NameMap(rules, len(spec.layers), shards)
    stems = [stem for pattern in rules if (stem := _stem(pattern)) is not None]
    for layer in range(len(spec.layers)):
        best: dict[_Shards, NamedLinear] = {}
        for name in (stem.replace("{i}", str(layer)) for stem in stems):
            linear = NamedLinear(name, names.destinations(f"{name}.weight"))
            if not linear.destinations or not all(_exists(each, shards) for each in linear.destinations):
                continue
            filled: _Shards = tuple((each.module, each.shard) for each in linear.destinations)
            best[filled] = linear
        split = {module for filled in best for module, shard in filled if shard is not None}
        for filled, linear in best.items():
            if filled[0][1] is not None or filled[0][0] not in split:
                yield linear


def _stem(pattern: str) -> str | None:
    """Return the pattern of a layer's module without the parameter, or None for other patterns."""
    stem = pattern.removesuffix(".*").removesuffix(".weight")
    return None if stem == pattern or "{i}" not in stem or "{e}" in stem or "{x}" in stem else stem


def _exists(destination: Destination, shards: Mapping[str, Sequence[str]]) -> bool:
    module, shard = destination.module, destination.shard
    if destination.when_present is not None and destination.when_present not in shards:
        return False
    return module in shards and (shard is None or shard in shards[module])
