"""The attention function that transformers' models call: ours, over the paged KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch
from models.spec import AttentionSpec

PAGED = "headrace"  # no masks are made for a name that has none registered: back ends know what a row sees


@dataclass(slots=True, eq=False)
class Step:
    """What is computed now. Set for the time of one forward pass, since models do not hand everything through."""

    batch: ForwardBatch | None = None
    kv: Sequence[torch.Tensor] = ()


@dataclass(frozen=True, slots=True, eq=False)
class PagedLayer:
    """One layer's attention; stands at the module that asks for it, under the name `paged`."""

    spec: AttentionSpec
    layer: int
    group: int
    backend: AttentionBackend
    step: Step

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
        """q: [T, H, D], k: [T, K, D], v: [T, K, value size] -> [T, H, value size]. Stores k and v."""
        batch, kv = self.step.batch, self.step.kv[self.layer]
        assert batch is not None
        group, value_dim = batch.groups[self.group], v.shape[-1]
        assert isinstance(group, KVGroupBatch)
        q, k, v = (self._widened(part.to(kv.dtype)) for part in (q, k, v))
        self.backend.write(kv, k, v, group)
        attended = self.backend.forward(q, kv, batch, group, self.spec, sinks=sinks)
        return attended[..., :value_dim]

    def _widened(self, heads: torch.Tensor) -> torch.Tensor:
        """Values may be smaller than keys, or larger. Zeros change neither a product nor what is kept of a sum."""
        return F.pad(heads, (0, self.spec.head_dim - heads.shape[-1])).contiguous()


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """transformers' interface: [1, heads, T, D] each to [1, T, H, value size]. Options are known from `observe`."""
    paged: PagedLayer = module.paged
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return paged.attend(q, k, v, s_aux)[None].to(query.dtype), None


AttentionInterface.register(PAGED, attend)
