"""Transforms of tensors from a checkpoint's layout to the decoder's parameters.

They also run on the meta device, where the loader needs only shapes.
"""

from collections.abc import Sequence

import torch

from models.architecture.layer import LayerSpec
from models.architecture.recurrence import GatedDeltaSpec, StateSpaceSpec


def transpose(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Transpose a weight of Conv1D, stored as [in, out]; biases are unchanged."""
    return tensor.t() if tensor.dim() == 2 else tensor


def plus_one(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Add the 1 that Gemma's checkpoints subtract from a norm's weight. The tensor is in fp32, like all norms."""
    return tensor + 1


def as_rows(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Return the rows of a matrix. GGUF drops a first dimension of size 1, and other formats have some between."""
    return tensor.reshape(-1, tensor.shape[-1])


def as_vector(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Return the only row of a matrix [1, n] as a vector."""
    return tensor.flatten()


def over_root_size(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Divide a vector by the root of its size, as the model does with what it multiplies."""
    return tensor * tensor.numel() ** -0.5


def conv_weight(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Convert a depthwise convolution's weight [channels, 1, K] to [K, channels]. GGUF adds or drops sizes of 1."""
    return tensor.reshape(-1, tensor.shape[-1]).t()


def flat(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Return a parameter of heads as a vector. GGUF files store some with one column, or a row for each group."""
    return tensor.flatten()


def log_of_rate(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Compute A_log from GGUF's ssm_a, which is -exp(A_log)."""
    return (-tensor).log()


def flat_log_of_rate(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    return log_of_rate(tensor, layer).flatten()


def without_first_two_rows(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Remove the two unused rows at the beginning of position embeddings such as OPT's."""
    return tensor[2:]


def concatenate(parts: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """Concatenate like torch.cat, which is not called on the meta device: it would import torch's compiler."""
    if parts[0].device.type != "meta":
        return torch.cat(tuple(parts), dim)
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return torch.empty(shape, dtype=parts[0].dtype, device="meta")


def ungroup_qkv(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Reorder the rows of a fused qkv, stored by key head (its queries, its key, its value), to q, k, v.

    Accepts weights [rows, in], biases [rows] and packed rows.
    """
    assert layer is not None
    spec = layer.attention
    shared = spec.num_heads // spec.num_kv_heads
    groups = tensor.unflatten(0, (spec.num_kv_heads, shared + 2, -1))  # [K, H / K + 2, D, ...]
    parts = (groups[:, :shared], groups[:, shared : shared + 1], groups[:, shared + 1 :])
    return concatenate([part.flatten(0, 2) for part in parts])


def values_keys_queries(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Reorder the rows of a fused qkv, stored by head (its query, key and value), to all values, keys and queries, as
    a StateSpaceSpec has them (x, B and C)."""
    assert layer is not None
    assert isinstance(layer.mixer, StateSpaceSpec)
    heads = tensor.unflatten(0, (layer.mixer.num_heads, 3, -1))  # [H, 3, D, ...]
    return concatenate([heads[:, part].flatten(0, 1) for part in (2, 1, 0)])


def unpermute_q(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Reorder rows of q from rotary pairs (2d, 2d + 1) to pairs (d, d + rotary_dim / 2); see RopeSpec."""
    assert layer is not None
    return _unpermute(tensor, layer, layer.attention.num_heads)


def unpermute_k(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    assert layer is not None
    return _unpermute(tensor, layer, layer.attention.num_kv_heads)


def unpermute_qkv(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Apply `unpermute_q` and `unpermute_k` to q, k and v in one tensor."""
    assert layer is not None
    spec = layer.attention
    heads = tensor.unflatten(0, (spec.num_heads + 2 * spec.num_kv_heads, -1))
    q, k, v = (part.flatten(0, 1) for part in heads.split([spec.num_heads, spec.num_kv_heads, spec.num_kv_heads]))
    return concatenate((unpermute_q(q, layer), unpermute_k(k, layer), v))


def unpermute_head(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Reorder weights of q_norm or k_norm, [D] or [heads, D], like `unpermute_q`."""
    assert layer is not None
    return _unpermute(tensor.flatten(), layer, tensor.numel() // layer.attention.head_dim).view(tensor.shape)


def unpermute_index(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Reorder an indexer's queries, keys or norm of keys like `unpermute_q`."""
    assert layer is not None
    assert layer.attention.indexer is not None
    return _unpermute(tensor, layer, tensor.shape[0] // layer.attention.indexer.head_dim)


def unpair_q(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Reorder rows of q from neighbors to halves of whole heads, also if the layer rotates a part of them or none."""
    assert layer is not None
    return _halves(tensor.unflatten(0, (layer.attention.num_heads, -1)), 1).flatten(0, 1)


def unpair_k(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    assert layer is not None
    return _halves(tensor.unflatten(0, (layer.attention.num_kv_heads, -1)), 1).flatten(0, 1)


def rotary_first_q(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Move the rotary part of each head's query to the front, with its pairs in RopeSpec's order.

    In a layer without latent attention, such as a recurrence, the queries are unchanged.
    """
    assert layer is not None
    if layer.latent is None:
        return tensor
    heads = tensor.unflatten(0, (layer.attention.num_heads, -1))  # [H, nope + rope, ...]
    nope_dim = layer.latent.nope_dim
    return concatenate((_halves(heads[:, nope_dim:], 1), heads[:, :nope_dim]), dim=1).flatten(0, 1)


def rotary_first_row(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Move the rotary part of the cached vector to the front, like `rotary_first_q`. Stored: [latent | rotary part]."""
    assert layer is not None
    assert layer.latent is not None
    rank = layer.latent.kv_rank
    return concatenate((_halves(tensor[rank:], 0), tensor[:rank]))


def _halves(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Move rotary pairs (2d, 2d + 1) along `dim` to (d, d + half)."""
    return tensor.unflatten(dim, (-1, 2)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def keys_of_heads(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select each head's W_k from kv_b_proj [H * (nope + value), rank], transposed: [H, rank, nope]."""
    assert layer is not None
    assert layer.latent is not None
    return tensor.unflatten(0, (layer.attention.num_heads, -1))[:, : layer.latent.nope_dim].transpose(1, 2)


def values_of_heads(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select each head's W_v from kv_b_proj: [H, value, rank]."""
    assert layer is not None
    assert layer.latent is not None
    return tensor.unflatten(0, (layer.attention.num_heads, -1))[:, layer.latent.nope_dim :]


def queries(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select the queries among q_proj's rows, in which a head's query is followed by its gate."""
    return _queries_and_gates(tensor, layer)[:, 0].flatten(0, 1)


def gates(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    return _queries_and_gates(tensor, layer)[:, 1].flatten(0, 1)


def _queries_and_gates(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    assert layer is not None
    return tensor.unflatten(0, (layer.attention.num_heads, 2, -1))  # [H, query or gate, D, ...]


def delta_qkv(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select q, k, v from in_proj_qkvz, whose rows are, for each key head, q, k, then v and z of its value heads."""
    return concatenate([part.flatten(0, 1) for part in _of_key_heads(tensor, layer)[:3]])


def delta_z(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    return _of_key_heads(tensor, layer)[3].flatten(0, 1)


def delta_b(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Select b from in_proj_ba, whose rows are, for each key head, b and then a of its value heads."""
    return tensor.unflatten(0, (_delta(layer).num_key_heads, 2, -1))[:, 0].flatten(0, 1)


def delta_a(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    return tensor.unflatten(0, (_delta(layer).num_key_heads, 2, -1))[:, 1].flatten(0, 1)


def _of_key_heads(tensor: torch.Tensor, layer: LayerSpec | None) -> tuple[torch.Tensor, ...]:
    """Split rows into q, k, v and z, each [key heads, rows, ...]."""
    delta = _delta(layer)
    values = delta.value_size // delta.num_key_heads
    heads = tensor.unflatten(0, (delta.num_key_heads, -1))
    return heads.split_with_sizes([delta.key_dim, delta.key_dim, values, values], dim=1)


def _delta(layer: LayerSpec | None) -> GatedDeltaSpec:
    assert layer is not None
    assert isinstance(layer.recurrence, GatedDeltaSpec)
    return layer.recurrence


def _unpermute(tensor: torch.Tensor, layer: LayerSpec, num_heads: int) -> torch.Tensor:
    """Reorder each head's rotary rows from interleaved pairs to halves, if the layer has rotary embedding.

    Accepts weights [heads * D, in], biases [heads * D] and packed rows.
    """
    if layer.rope is None:
        return tensor
    heads = tensor.unflatten(0, (num_heads, -1))  # [heads, D, ...]
    rotary, others = heads[:, : layer.rope.rotary_dim], heads[:, layer.rope.rotary_dim :]
    return concatenate((_halves(rotary, 1), others), dim=1).flatten(0, 1)
