"""Transforms: from a tensor as the format stores it to the decoder's parameter.

They also run on the meta device, where the loader only asks for shapes.
"""

from collections.abc import Sequence

import torch

from models.architecture.layer import LayerSpec


def transpose(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Conv1D stores its weight as [in, out]; biases stay as they are."""
    return tensor.t() if tensor.dim() == 2 else tensor


def plus_one(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Return a norm's weight where the checkpoint stores it minus 1 (Gemma). In fp32, as norms are."""
    return tensor + 1


def as_row(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Return a vector as the one row of a parameter, [1, n]. GGUF drops dimensions of size 1."""
    return tensor.reshape(1, -1)


def at_least_a_row(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """Return a matrix, which GGUF stores as a vector if it has one row."""
    return tensor.reshape(1, -1) if tensor.dim() == 1 else tensor


def conv_weight(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """[K, channels] from a depthwise convolution's [channels, 1, K]; GGUF leaves out the 1."""
    return tensor.flatten(1).t()


def without_first_two_rows(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:  # noqa: ARG001
    """OPT's position embedding starts with two unused rows."""
    return tensor[2:]


def joined(parts: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """torch.cat for transforms. On the meta device, where only shapes matter, torch.cat would import torch's compiler,
    which takes two seconds."""
    if parts[0].device.type != "meta":
        return torch.cat(tuple(parts), dim)
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return torch.empty(shape, dtype=parts[0].dtype, device="meta")


def ungroup_qkv(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Rows in groups of (queries that share a key head, that key head, its value head) to q, k, v.

    Works on weights [rows, in], biases [rows] and packed rows alike.
    """
    assert layer is not None
    spec = layer.attention
    shared = spec.num_heads // spec.num_kv_heads
    groups = tensor.unflatten(0, (spec.num_kv_heads, shared + 2, -1))  # [K, H / K + 2, D, ...]
    parts = (groups[:, :shared], groups[:, shared : shared + 1], groups[:, shared + 1 :])
    return joined([part.flatten(0, 2) for part in parts])


def unpermute_q(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Rows of q from rotary pairs (2d, 2d + 1) to pairs (d, d + rotary_dim / 2): see RopeSpec."""
    assert layer is not None
    return _unpermute(tensor, layer, layer.attention.num_heads)


def unpermute_k(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    assert layer is not None
    return _unpermute(tensor, layer, layer.attention.num_kv_heads)


def unpermute_qkv(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """`unpermute_q` and `unpermute_k` for q, k and v in one tensor."""
    assert layer is not None
    spec = layer.attention
    heads = tensor.unflatten(0, (spec.num_heads + 2 * spec.num_kv_heads, -1))
    q, k, v = (part.flatten(0, 1) for part in heads.split([spec.num_heads, spec.num_kv_heads, spec.num_kv_heads]))
    return joined((unpermute_q(q, layer), unpermute_k(k, layer), v))


def unpermute_head(tensor: torch.Tensor, layer: LayerSpec | None) -> torch.Tensor:
    """Return the same for weights of q_norm or k_norm, [D] or [heads, D]."""
    assert layer is not None
    return _unpermute(tensor.flatten(), layer, tensor.numel() // layer.attention.head_dim).view(tensor.shape)


def _unpermute(tensor: torch.Tensor, layer: LayerSpec, num_heads: int) -> torch.Tensor:
    """Return each head's rotary rows from neighboring pairs to halves. Layers without rotary embedding stay as they
    are.

    Works on weights [heads * D, in], biases [heads * D] and packed rows alike.
    """
    if layer.rope is None:
        return tensor
    heads = tensor.unflatten(0, (num_heads, -1))  # [heads, D, ...]
    rotary, others = heads[:, : layer.rope.rotary_dim], heads[:, layer.rope.rotary_dim :]
    halves = rotary.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)
    return joined((halves, others), dim=1).flatten(0, 1)
