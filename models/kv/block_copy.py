"""BlockCopy: copies the contents of whole blocks out of a cache, and back, and within it."""

from collections.abc import Iterable

import numpy as np
import torch

from models.architecture.kv_layout import KVLayout
from models.errors import ModelError
from models.kv.cache import CacheLayout
from models.kv.layer import LayerCache, LayerKV


class BlockCopy:
    """Copies blocks of a cache that CacheLayout.allocate has made.

    A block's content is its memory, all parts of all layers of its group one after another: bytes that mean the same in
    another cache of the same layout and block size alone. Groups of recurrent layers have no blocks here.
    """

    def __init__(self, layout: CacheLayout, caches: list[LayerCache], block_size: int) -> None:
        """caches: of all layers. block_size: the option's. Raises ModelError if blocks are not whole tiles."""
        # Of each group: [blocks, bytes of a block] uint8, views of the cache.
        self._parts: list[list[torch.Tensor]] = []
        for group, size in zip(layout.groups, layout.block_sizes(block_size), strict=True):
            layers = [cache for layer in group.layers if isinstance(cache := caches[layer], LayerKV)]
            self._parts.append([_by_block(part, kv.layout, size) for kv in layers for part in kv.parts.values()])
        self.block_bytes = tuple(sum(part.shape[1] for part in parts) for parts in self._parts)

    def read(self, group: int, block: int) -> bytes:
        """Return the content of a block."""
        parts = [part[block] for part in self._parts[group]]
        if not parts[0].is_cpu:
            return torch.cat(parts).cpu().numpy().tobytes()
        return b"".join([part.numpy().data for part in parts])

    def copy(self, copies: Iterable[tuple[int, int, int]]) -> None:
        """Copy blocks within the cache: (group, source, target). All sources are read before any target is written."""
        by_group: dict[int, tuple[list[int], list[int]]] = {}
        for group, source, target in copies:
            sources, targets = by_group.setdefault(group, ([], []))
            sources.append(source)
            targets.append(target)
        contents = {group: [part[sources] for part in self._parts[group]] for group, (sources, _) in by_group.items()}
        for group, (_, targets) in by_group.items():
            for part, content in zip(self._parts[group], contents[group], strict=True):
                part[targets] = content

    def write(self, group: int, block: int, content: bytes) -> None:
        """Overwrite a block with a content that `read` has returned."""
        assert len(content) == self.block_bytes[group]
        start = 0
        for part in self._parts[group]:
            num_bytes = part.shape[1]
            source = np.frombuffer(content, np.uint8, num_bytes, start)
            if part.is_cpu:
                part[block].numpy()[:] = source  # copies once
            else:
                part[block].copy_(torch.from_numpy(source.copy()))  # torch takes no memory that is read-only
            start += num_bytes


def _by_block(part: torch.Tensor, layout: KVLayout, block_size: int) -> torch.Tensor:
    """Return a part of a cache as bytes by block. part: [tiles, ...]."""
    if block_size % layout.tile:
        raise ModelError(
            f"blocks of {block_size} tokens cannot be copied out of the KV cache, which keeps {layout.tile} tokens "
            f"together; choose a multiple of {layout.tile} (--block-size)"
        )
    tiles = part.view(torch.uint8).flatten(1)
    return tiles.view(len(tiles) * layout.tile // block_size, -1)
