"""LayerGroup: layers that share block tables, and so a place in the KV cache's one pool of blocks.

A block of the pool holds the keys and values of `block_size` positions for the layers of one group. So that any group
can use any block, all groups have as many layers (the last of a kind may have fewer, and then wastes the rest), and the
n-th layers of all groups lie in one tensor:

              block 0     block 1     block 2     block 3
    tensor 0  layer 5     layer 0     layer 2     layer 5
    tensor 1  layer 11    layer 1     layer 3     layer 11
              full        window, 1st window, 2nd full
"""

from collections.abc import Sequence
from dataclasses import dataclass

from models.attention.base import AttentionSpec

_MAX_GROUPS = 8  # each costs a table a sequence and some host time a step


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """`layers` that see the same positions: all before a token (window None), or the window - 1 before it."""

    window: int | None
    layers: tuple[int, ...]


def group_layers(specs: Sequence[AttentionSpec]) -> tuple[LayerGroup, ...]:
    """All layers, in groups of equal size; groups that see everything come first.

    Layers whose keys and values differ in shape cannot take turns in one tensor. A model with such layers gets a single
    group, which keeps all positions for every layer.
    """
    if len({(spec.num_kv_heads, spec.head_dim, spec.values_from is None) for spec in specs}) > 1:
        return (LayerGroup(None, tuple(range(len(specs)))),)
    by_window: dict[int | None, list[int]] = {}
    for layer, spec in enumerate(specs):
        by_window.setdefault(spec.sliding_window, []).append(layer)
    windows = sorted(by_window, key=lambda window: (window is not None, window))
    size = _group_size({window: len(by_window[window]) for window in windows})
    return tuple(
        LayerGroup(window, tuple(by_window[window][start : start + size]))
        for window in windows
        for start in range(0, len(by_window[window]), size)
    )


def _group_size(counts: dict[int | None, int]) -> int:
    """Layers in each group, such that little memory is wasted: first that which grows with the context."""

    def waste(size: int) -> tuple[int, int, int]:
        num_groups = {window: -(-count // size) for window, count in counts.items()}
        return num_groups.get(None, 0) * size, sum(num_groups.values()) * size, sum(num_groups.values())

    sizes = range(1, max(counts.values()) + 1)
    allowed = [size for size in sizes if sum(-(-count // size) for count in counts.values()) <= _MAX_GROUPS]
    return min(allowed or sizes[-1:], key=waste)
