"""LayerGroup: layers that share block tables, and use blocks of the KV cache's one pool.

A block of the pool holds the keys and values of `block_size` positions for the layers of one group. So that any group
can use any block, all groups have the same number of layers (the last group of a kind may have fewer, and then wastes a
part of its blocks), and the n-th layers of all groups share one tensor:

              block 0     block 1     block 2     block 3
    tensor 0  layer 5     layer 0     layer 2     layer 5
    tensor 1  layer 11    layer 1     layer 3     layer 11
              full        window, 1st window, 2nd full

Layers with a recurrence form one more group, the last. Its blocks come from another pool; each holds one state of all
these layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from models.architecture.attention import AttentionSpec
from models.architecture.recurrence import RecurrenceSpec

_MAX_GROUPS = 8  # each costs a block table per sequence and some host time per step
_Window = tuple[int, bool]  # (window or 0, whether it is chunked)
_FULL_ATTENTION = (0, False)


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that share a block table: attention to the same positions, or with `is_state`, all recurrent layers.

    `layers` are indices of mixers (DecoderSpec.mixers): a layer with attention beside a recurrence counts as two, and
    one that is feed-forward alone as none.

    The layers attend to all positions before a token (window None), to the window - 1 before it, or with `is_chunked`
    to the positions of the token's own chunk of `window` positions.
    """

    window: int | None
    layers: tuple[int, ...]
    is_chunked: bool = False
    is_state: bool = False


def group_layers(mixers: Sequence[AttentionSpec | RecurrenceSpec]) -> tuple[LayerGroup, ...]:
    """Group all layers. Groups of attention have equal size, and those with full attention come first.

    Layers whose keys and values differ in shape cannot share a tensor: a model with such layers gets one group for all
    attention, which stores all positions for every layer.
    """
    attending = {layer: mixer for layer, mixer in enumerate(mixers) if isinstance(mixer, AttentionSpec)}
    recurrent = tuple(layer for layer in range(len(mixers)) if layer not in attending)
    states = (LayerGroup(None, recurrent, is_state=True),) if recurrent else ()
    return *_group_attention(attending), *states


def _group_attention(specs: dict[int, AttentionSpec]) -> tuple[LayerGroup, ...]:
    if not specs:
        return ()
    if len({(spec.num_kv_heads, spec.head_dim, spec.values_from is None) for spec in specs.values()}) > 1:
        return (LayerGroup(None, tuple(specs)),)
    by_window: dict[_Window, list[int]] = {}
    for layer, spec in specs.items():
        by_window.setdefault((spec.sliding_window or spec.chunk or 0, spec.chunk is not None), []).append(layer)
    windows = sorted(by_window)
    size = _group_size({window: len(by_window[window]) for window in windows})
    return tuple(
        LayerGroup(window or None, tuple(by_window[window, is_chunked][start : start + size]), is_chunked)
        for window, is_chunked in windows
        for start in range(0, len(by_window[window, is_chunked]), size)
    )


def _group_size(counts: dict[_Window, int]) -> int:
    """Return the layers per group that waste the least memory, in full attention first. counts: layers by window."""

    def waste(size: int) -> tuple[int, int, int]:
        num_groups = {window: -(-count // size) for window, count in counts.items()}
        return num_groups.get(_FULL_ATTENTION, 0) * size, sum(num_groups.values()) * size, sum(num_groups.values())

    sizes = range(1, max(counts.values()) + 1)
    allowed = [size for size in sizes if sum(-(-count // size) for count in counts.values()) <= _MAX_GROUPS]
    return min(allowed or sizes[-1:], key=waste)
