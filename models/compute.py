"""ComputeConfig: the attention, operations, dtypes and device that a decoder computes with."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import LayerLayout, state_layout
from models.architecture.recurrence import StateSpec
from models.attention.base import AttentionBackend
from models.kernels.ops import Operations
from models.kv.cache import CacheLayout
from models.kv.groups import group_layers


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """How a model computes; chosen once before its decoder is built.

    dtype: dtype of activations and dense weights. kv_dtype: dtype of stored keys and values.
    """

    backend: AttentionBackend
    ops: Operations
    dtype: torch.dtype
    kv_dtype: torch.dtype
    device: torch.device

    def cache_layout(self, mixers: Sequence[AttentionSpec | StateSpec]) -> CacheLayout:
        """Return the layout of a decoder's cache. mixers: attention or recurrence of each layer."""
        layouts = tuple(map(self._layer_layout, mixers))
        return CacheLayout(layouts, group_layers(mixers, layouts))

    def _layer_layout(self, mixer: AttentionSpec | StateSpec) -> LayerLayout:
        if isinstance(mixer, AttentionSpec):
            return self.backend.layout(mixer, self.dtype, self.kv_dtype)
        return state_layout(mixer, self.dtype)
