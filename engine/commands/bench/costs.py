"""Lower bounds on the cost of a phase: bytes moved and operations, computed from shapes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from models.architecture.attention import AttentionSpec
from models.batch import ForwardBatch, KVGroupBatch, StateGroupBatch
from models.kv.layer import LayerKV, LayerState
from models.layers.mlp import MLP
from models.linear.linear import Linear


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes moved and operations. dtype: the precision of the operations; int8 for quantized weights."""

    num_bytes: int = 0
    flops: int = 0
    dtype: str = "float32"

    def __add__(self, other: "Cost") -> "Cost":
        dtype = other.dtype if other.flops else self.dtype
        return Cost(self.num_bytes + other.num_bytes, self.flops + other.flops, dtype)


def linear_cost(layer: Linear, x: torch.Tensor) -> Cost:
    """Return the cost of a linear layer: bytes of its stored weight, inputs and outputs, and a multiply and an add per
    row and weight element. x: [..., n], the layer's input."""
    rows = x.numel() // x.shape[-1]
    num_weights = layer.in_features * layer.out_features
    stored_bytes = weight_bytes(layer)
    return Cost(
        num_bytes=stored_bytes + x.nbytes + rows * layer.out_features * x.element_size(),
        flops=2 * rows * num_weights,
        dtype=_arithmetic(stored_bytes / num_weights),
    )


def experts_cost(experts: Iterable[MLP], counts: torch.Tensor) -> Cost:
    """Return the cost of the MoE experts that have rows. counts: [E], the number of rows of each expert."""
    total = Cost()
    for expert, rows in zip(experts, counts.tolist(), strict=True):
        for layer in expert.linears if rows else ():
            total += linear_cost(layer, torch.empty(rows, layer.in_features, device="meta"))
    return total


def _arithmetic(bytes_per_weight: float) -> str:
    """Return the fastest arithmetic for weights of this width: int8 below 2 bytes, then bfloat16, then float32."""
    if bytes_per_weight < 2:
        return "int8"
    return "bfloat16" if bytes_per_weight < 4 else "float32"


def weight_bytes(layer: nn.Module) -> int:
    """Return the bytes of all tensors of a layer, in parameters, buffers or (packed) plain attributes."""
    tensors = [*layer.parameters(), *layer.buffers(), *_tensors_in(vars(layer).values())]
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def _tensors_in(values: object) -> Iterator[torch.Tensor]:
    for value in values:  # type: ignore[attr-defined]
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors_in(value)


def attention_cost(
    q: torch.Tensor, kv: LayerKV, batch: ForwardBatch, group: KVGroupBatch, spec: AttentionSpec, **_: object
) -> Cost:
    """Return the cost of attention: visible keys and values are read once per sequence, queries and outputs move once,
    and each row is multiplied with the key and value of each position that it sees."""
    del group
    sees_all = spec.sliding_window is None and spec.chunk is None
    read = visible = 0
    for rows, context in zip(batch.query_lens, batch.context_lens, strict=True):
        first = context - rows
        read += context - spec.first_seen(first)
        if sees_all:
            visible += rows * first + rows * (rows + 1) // 2
        else:
            visible += sum(position + 1 - spec.first_seen(position) for position in range(first, context))
    kv_bytes = read * kv.layout.position_bytes
    product_dims = spec.head_dim + spec.value_dim
    flops = 2 * spec.num_heads * product_dims * visible
    row_bytes = q.shape[0] * spec.num_heads * product_dims * q.element_size()
    return Cost(kv_bytes + row_bytes, flops, str(q.dtype).removeprefix("torch."))


def kv_write_cost(kv: LayerKV, k: torch.Tensor, v: torch.Tensor | None, group: KVGroupBatch, _: object = None) -> Cost:
    """Return the cost of writing keys and values to the KV cache: each is read once and written once."""
    del group
    return Cost(k.nbytes + (0 if v is None else v.nbytes) + len(k) * kv.layout.position_bytes)


def rotate_and_write_cost(
    kv: LayerKV,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor | None,
    by: object,
    group: KVGroupBatch,
    norms: object = None,
) -> Cost:
    """Return the cost of `kv_write_cost`, and of rotating the queries. Norms cost no more bytes."""
    del by, norms
    return kv_write_cost(kv, k, v, group) + Cost(2 * q.numel() * q.element_size())


def recurrence_cost(rows: torch.Tensor, group: StateGroupBatch, state: LayerState, _: object) -> Cost:
    """Return the cost of a recurrence between its projections: rows are read, and states read and written once per
    sequence. Its operations are not counted."""
    state_bytes = sum(part[0].nbytes for part in state.parts)
    num_moved = sum(block >= 0 for block in group.source_blocks) + sum(block >= 0 for block in group.target_blocks)
    return Cost(rows.nbytes + num_moved * state_bytes)


def sampling_cost(logits: torch.Tensor, *_: object) -> Cost:
    """Return the cost of reading every logit once."""
    return Cost(logits.numel() * logits.element_size())
