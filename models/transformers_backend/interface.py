"""The attention function that transformers' models call: headrace's attention over the paged KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface

from models.architecture.attention import AttentionSpec
from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch
from models.kv.layer import LayerCache, LayerKV
from models.progress import StepProgress, ignore_progress

PAGED = "headrace"  # transformers makes no masks for a name without a registered one; back ends do not need them


@dataclass(slots=True, eq=False)
class CurrentStep:
    """The batch and caches of the current forward pass, since transformers' models do not pass on all arguments."""

    batch: ForwardBatch | None = None
    kv: Sequence[LayerCache] = ()
    adapter_slots: torch.Tensor | None = None  # of the rows that are computed; None if none has an adapter
    on_progress: StepProgress = ignore_progress
    num_calls: dict[int, int] = field(default_factory=dict)  # of attention modules that several layers share, by id

    def begin(self, batch: ForwardBatch, kv: Sequence[LayerCache], on_progress: StepProgress) -> None:
        self.batch, self.kv, self.on_progress = batch, kv, on_progress
        self.adapter_slots = batch.adapter_slots
        self.num_calls.clear()

    def end(self) -> None:
        self.batch, self.kv, self.adapter_slots = None, (), None

    def count_call(self, module: nn.Module) -> int:
        """Return how often the module was called before in this pass."""
        number = self.num_calls.get(id(module), 0)
        self.num_calls[id(module)] = number + 1
        return number


@dataclass(frozen=True, slots=True, eq=False)
class PagedLayer:
    """A layer's attention over the KV cache. transformers' attention modules have their layer's as `paged`."""

    spec: AttentionSpec
    layer: int
    group: int
    backend: AttentionBackend
    step: CurrentStep

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
        """Cache k and v, and attend: q [T, H, D], k [T, K, D], v [T, K, value_dim] -> [T, H, value_dim]."""
        self.step.on_progress()
        batch, kv = self.step.batch, self.step.kv[self.layer]
        assert batch is not None
        group, value_dim = batch.groups[self.group], v.shape[-1]
        assert isinstance(group, KVGroupBatch)
        assert isinstance(kv, LayerKV)
        q, k, v = (self._padded(part.to(kv.layout.compute_dtype)) for part in (q, k, v))
        self.backend.write(kv, k, v, group)
        attended = self.backend.forward(q, kv, batch, group, self.spec, sinks=sinks)
        return attended[..., :value_dim]

    def _padded(self, heads: torch.Tensor) -> torch.Tensor:
        """Pad heads with zeros to the head size, since keys and values may differ in size; zeros change no result."""
        missing = self.spec.head_dim - heads.shape[-1]
        return (F.pad(heads, (0, missing)) if missing else heads).contiguous()


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001
    s_aux: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend for transformers (its AttentionInterface): q, k, v [S, heads, T / S, D] -> [S, T / S, H, value_dim]."""
    layers: tuple[PagedLayer, ...] = module.paged
    paged = layers[0] if len(layers) == 1 else layers[layers[0].step.count_call(module)]
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    attended = paged.attend(q, k, v, s_aux).to(query.dtype)
    return attended.unflatten(0, (len(query), -1)), None


AttentionInterface.register(PAGED, attend)
