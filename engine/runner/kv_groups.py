"""kv_groups: converts a model's layer groups to the scheduler's KVGroups."""

from collections.abc import Iterable

from engine.scheduling.kv.groups import KVGroup
from models.kv.groups import LayerGroup


def kv_groups(groups: Iterable[LayerGroup], block_size: int) -> tuple[KVGroup, ...]:
    """Return the scheduler's KVGroup for each layer group of a model."""
    return tuple(
        KVGroup(block_size, group.window, is_chunked=group.is_chunked, is_state=group.is_state) for group in groups
    )
