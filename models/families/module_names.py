"""Names that transformers gives the linear layers of a decoder: what PEFT calls them in an adapter."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from models.architecture.decoder import DecoderSpec
from models.families.name_map import Destination, NameMap, Rules

_Places = tuple[tuple[str, str | None], ...]  # (module, shard) of each destination


@dataclass(frozen=True, slots=True)
class NamedLinear:
    """A linear layer of transformers' model, and what it fills of ours: several shards if its rows are split."""

    name: str  # "model.layers.3.self_attn.q_proj"
    destinations: tuple[Destination, ...]

    @property
    def kind(self) -> str:
        """The last part of its name, which layers of one kind share: "q_proj"."""
        return self.name.rpartition(".")[2]

    def row_orders(self, spec: DecoderSpec, num_rows: int) -> list[torch.Tensor]:
        """For each destination, which of the layer's `num_rows` outputs its rows are: int64."""
        rows = torch.arange(num_rows)
        return [_moved(rows, destination, spec) for destination in self.destinations]


def named_linears(rules: Rules, spec: DecoderSpec, shards: Mapping[str, Sequence[str]]) -> Iterator[NamedLinear]:
    """Yield each layer's linear layers by the rules for safetensors, layer after layer; experts are left out.

    shards: the names of the shards of each linear layer that the decoder has; empty for one without. Rules name more
    than a model has: what only some configurations have, and names of other classes. Of several names for one place,
    that of the class that generates text wins, which has the longest prefix, then the last, since families add theirs
    to those that they start from.
    """
    names = NameMap(rules, len(spec.layers))
    stems = [stem for pattern in rules if (stem := _stem(pattern)) is not None]
    for layer in range(len(spec.layers)):
        best: dict[_Places, NamedLinear] = {}
        prefix_sizes: dict[_Places, int] = {}
        for name in (stem.replace("{i}", str(layer)) for stem in stems):
            linear = NamedLinear(name, names.destinations(f"{name}.weight"))
            if not linear.destinations or not all(_exists(each, shards) for each in linear.destinations):
                continue
            places: _Places = tuple((each.module, each.shard) for each in linear.destinations)
            prefix_size = len(name.partition(f".{layer}.")[0])
            if prefix_size >= prefix_sizes.get(places, 0):
                best[places], prefix_sizes[places] = linear, prefix_size
        split = {module for places in best for module, shard in places if shard is not None}
        for places, linear in best.items():
            if places[0][1] is not None or places[0][0] not in split:
                yield linear


def _stem(pattern: str) -> str | None:
    """Return the pattern of a layer's module, or None for one of something else."""
    stem = pattern.removesuffix(".*").removesuffix(".weight")
    return None if stem == pattern or "{i}" not in stem or "{e}" in stem or "{x}" in stem else stem


def _exists(destination: Destination, shards: Mapping[str, Sequence[str]]) -> bool:
    module, shard = destination.module, destination.shard
    if destination.beside is not None and destination.beside not in shards:
        return False
    return module in shards and (shard is None or shard in shards[module])


def _moved(rows: torch.Tensor, destination: Destination, spec: DecoderSpec) -> torch.Tensor:
    """Transforms move a bias, [rows], as they move the rows of a matrix."""
    if destination.transform is None:
        return rows
    layer = None if destination.layer is None else spec.layers[destination.layer]
    return destination.transform(rows, layer)
