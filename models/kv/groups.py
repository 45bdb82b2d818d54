"""LayerGroup: layers that share block tables, and use blocks of the KV cache's one pool.

A block of the pool holds the keys and values of some positions for the layers of one group. So that any group can use
any block, all groups have the same number of layers (the last group of a kind may have fewer, and then wastes a part of
its blocks), and the n-th layers of all groups share one tensor:

              block 0     block 1     block 2     block 3
    tensor 0  layer 5     layer 0     layer 2     layer 5
    tensor 1  layer 11    layer 1     layer 3     layer 11
              full        window, 1st window, 2nd full

All blocks have the same bytes. Where layers store positions of different sizes, those with smaller positions have more
of them in a block (`block_ratio`): with 2 KiB a position in windows and 1 KiB in full attention, a block holds 16
positions of a group with a window, or 32 of a group with full attention.

Layers with a recurrence form one more group, the last. Its blocks come from another pool; each holds one state of all
these layers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import KVLayout, LayerLayout
from models.architecture.recurrence import StateSpec

_MAX_GROUPS = 8  # each costs a block table per sequence and some host time per step
_MAX_RATIO = 16  # prefixes are found in steps of whole blocks of all groups, which may not become too long
_Window = tuple[int, bool]  # (window or 0, whether it is chunked)
_Kind = tuple[_Window, KVLayout]
_FULL_ATTENTION = (0, False)


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that share a block table: attention to the same positions, or with `is_state`, all recurrent layers.

    `layers` are indices of mixers (DecoderSpec.mixers): a layer with attention beside a recurrence counts as two, and
    one that is feed-forward alone as none.

    The layers attend to all positions before a token (window None), to the window - 1 before it, or with `is_chunked`
    to the positions of the token's own chunk of `window` positions. block_ratio: positions in a block, relative to the
    other groups.
    """

    window: int | None
    layers: tuple[int, ...]
    is_chunked: bool = False
    is_state: bool = False
    block_ratio: int = 1


def group_layers(mixers: Sequence[AttentionSpec | StateSpec], layouts: Sequence[LayerLayout]) -> tuple[LayerGroup, ...]:
    """Group all layers. Groups of attention have equal size, and those with full attention come first.

    layouts: of the mixers' caches. If all layers see the same positions, one group has them all. So it does, and stores
    all positions for every layer, if no blocks of equal bytes are small enough for the layers' layouts.
    """
    attending = {layer: mixer for layer, mixer in enumerate(mixers) if isinstance(mixer, AttentionSpec)}
    recurrent = tuple(layer for layer in range(len(mixers)) if layer not in attending)
    states = (LayerGroup(None, recurrent, is_state=True),) if recurrent else ()
    stored = {layer: layout for layer in attending if isinstance(layout := layouts[layer], KVLayout)}
    return *_group_attention(attending, stored), *states


def _group_attention(specs: Mapping[int, AttentionSpec], layouts: Mapping[int, KVLayout]) -> tuple[LayerGroup, ...]:
    if not specs:
        return ()
    by_kind: dict[_Kind, list[int]] = {}
    for layer, spec in specs.items():
        window = (spec.sliding_window or spec.chunk or 0, spec.chunk is not None)
        by_kind.setdefault((window, layouts[layer]), []).append(layer)
    windows = {window for window, _ in by_kind}
    ratios = _block_ratios({layout for _, layout in by_kind})
    if len(windows) == 1 and len(by_kind) > 1:
        ((only_window, only_is_chunked),) = windows
        return (LayerGroup(only_window or None, tuple(specs), only_is_chunked),)
    if ratios is None:
        return (LayerGroup(None, tuple(specs)),)
    kinds = sorted(by_kind, key=lambda kind: kind[0])
    size = _group_size({kind: len(layers) for kind, layers in by_kind.items()})
    return tuple(
        LayerGroup(window or None, tuple(by_kind[kind][start : start + size]), is_chunked, block_ratio=ratios[layout])
        for kind in kinds
        for (window, is_chunked), layout in [kind]
        for start in range(0, len(by_kind[kind]), size)
    )


def _block_ratios(layouts: set[KVLayout]) -> dict[KVLayout, int] | None:
    """Return how many positions a block has in each layout, relative to the others, so that blocks have equal bytes;
    None if these numbers are too large, or if one layout's parts are not all in the same proportion to another's."""
    first, *others = layouts
    for other in others:
        if [(part.name, part.dtype) for part in other.parts] != [(part.name, part.dtype) for part in first.parts]:
            return None
        pairs = zip(first.parts, other.parts, strict=True)
        sizes = [(one.num_bytes * other.tile, two.num_bytes * first.tile) for one, two in pairs]
        if any(one * sizes[0][1] != two * sizes[0][0] for one, two in sizes):
            return None
    block_bytes = math.lcm(*(layout.position_bytes for layout in layouts))
    ratios = {layout: block_bytes // layout.position_bytes for layout in layouts}
    return ratios if math.lcm(*ratios.values()) <= _MAX_RATIO else None


def _group_size(counts: Mapping[_Kind, int]) -> int:
    """Return the layers per group that waste the least memory, in full attention first. counts: layers by kind."""

    def waste(size: int) -> tuple[int, int, int]:
        num_groups = {kind: -(-count // size) for kind, count in counts.items()}
        num_bytes = {kind: num * size * kind[1].position_bytes for kind, num in num_groups.items()}
        of_full = sum(each for (window, _), each in num_bytes.items() if window == _FULL_ATTENTION)
        return of_full, sum(num_bytes.values()), sum(num_groups.values())

    sizes = range(1, max(counts.values()) + 1)
    allowed = [size for size in sizes if sum(-(-count // size) for count in counts.values()) <= _MAX_GROUPS]
    return min(allowed or sizes[-1:], key=waste)
