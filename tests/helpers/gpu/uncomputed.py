"""Attention without numbers: what a step does around attention, for a device where no back end computes it yet."""

import torch

from models.architecture.attention import AttentionSpec, IndexerSpec
from models.attention.reference import ReferenceAttention
from models.batch import ForwardBatch, KVGroupBatch
from models.kv.layer import LayerKV


class UncomputedAttention(ReferenceAttention):
    """Writes keys and values as the reference does, and returns uninitialized results of the right shapes."""

    name = "uncomputed"

    def choose(
        self,
        q: torch.Tensor,
        weights: torch.Tensor,  # noqa: ARG002
        kv: LayerKV,  # noqa: ARG002
        batch: ForwardBatch,  # noqa: ARG002
        group: KVGroupBatch,  # noqa: ARG002
        indexer: IndexerSpec,
    ) -> torch.Tensor:
        return torch.empty(len(q), indexer.topk, dtype=torch.int32, device=q.device)

    def forward(
        self,
        q: torch.Tensor,
        kv: LayerKV,  # noqa: ARG002
        batch: ForwardBatch,  # noqa: ARG002
        group: KVGroupBatch,  # noqa: ARG002
        spec: AttentionSpec,
        **parameters: torch.Tensor | None,
    ) -> torch.Tensor:
        for name, tensor in parameters.items():
            assert tensor is None or tensor.device == q.device, name
        return q.new_empty((*q.shape[:2], spec.value_dim))
