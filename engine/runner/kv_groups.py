"""kv_groups: converts a model's layer groups to the scheduler's KVGroups."""

from engine.scheduling.kv.groups import KVGroup
from models.kv.cache import CacheLayout


def kv_groups(layout: CacheLayout, block_size: int) -> tuple[KVGroup, ...]:
    """Return the scheduler's KVGroup for each layer group of a model. block_size: the option's."""
    sizes = layout.block_sizes(block_size)
    return tuple(
        KVGroup(size, group.window, is_chunked=group.is_chunked, is_state=group.is_state)
        for size, group in zip(sizes, layout.groups, strict=True)
    )
