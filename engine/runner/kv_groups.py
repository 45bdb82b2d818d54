"""kv_groups: a model's layer groups, as the scheduler sees them."""

from collections.abc import Iterable

from engine.scheduling.kv.groups import KVGroup
from models.kv.groups import LayerGroup


def kv_groups(groups: Iterable[LayerGroup], block_size: int) -> tuple[KVGroup, ...]:
    """Return the scheduler's view of a model's layer groups."""
    return tuple(
        KVGroup(block_size, group.window, is_chunked=group.is_chunked, is_state=group.is_state) for group in groups
    )
