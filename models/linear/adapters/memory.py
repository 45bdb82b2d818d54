"""The number of values in an adapter, by the layers that it changes."""

from collections.abc import Iterable

from models.linear.adapters.stacked_bank import stacked_rank
from models.linear.linear import Linear

_RANKS = 16  # of a packed block


def pair_numbers(layers: Iterable[Linear], rank: int) -> int:
    """Return the number of values in LoRA pairs of this rank for all shards of the layers, as a file stores them."""
    return sum(rank * (layer.in_features + size) for layer in layers for size in shard_sizes(layer))


def packed_numbers(layers: Iterable[Linear], rank: int) -> int:
    """Return the number of values in a slot's packed pairs, ranks padded to even per shard and to blocks per layer."""
    total = 0
    even_rank = rank + rank % 2
    for layer in layers:
        sizes = shard_sizes(layer)
        ranks = -(-even_rank * len(sizes) // _RANKS) * _RANKS
        total += ranks * layer.in_features + even_rank * sum(sizes)
    return total


def stacked_numbers(layers: Iterable[Linear], rank: int) -> int:
    """Return the number of values in a slot of a GPU's banks, which have room for pairs of this rank in all shards."""
    padded = stacked_rank(rank)
    return sum(padded * (len(shard_sizes(layer)) * layer.in_features + layer.out_features) for layer in layers)


def shard_sizes(layer: Linear) -> list[int]:
    """Return the number of outputs of each shard; a layer without shards counts as one shard."""
    return [count for _, count in layer.shards.values()] or [layer.out_features]
