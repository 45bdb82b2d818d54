"""Norm, rotation and KV write of heads in one Triton kernel, against torch."""

import dataclasses

import pytest
import torch

from models.attention.rotary import RotaryEmbedding, rotate, scale_queries
from models.kernels.row_input import InputKind, RowInput
from models.kernels.triton.rope_write import rope_write
from tests.helpers.gpu.interpreter import interpreting
from tests.models.kernels.test_quantized_linear import prepared_rows, row_input
from tests.models.kernels.test_rows import normal

ROWS, H, K, P, BLOCKS = 2, 6, 2, 4, 5
SLOTS = torch.tensor([9, -1])  # of the second row, nothing is written
UNTOUCHED = 7.0


def head_norm(kind: InputKind, size: int, heads: int | None, seed: int) -> RowInput:
    """A norm of heads of `size` numbers. heads: with a weight for each of so many."""
    weight, bias = normal(*(() if heads is None else (heads,)), size, seed=seed), normal(size, seed=seed + 1)
    return dataclasses.replace(row_input(kind, weight, bias), weight=weight)


def normed(x: torch.Tensor, norm: RowInput | None) -> torch.Tensor:
    if norm is None:
        return x.float()
    assert norm.weight is not None
    size = x.shape[-1]
    y = prepared_rows(norm.kind, x.float(), torch.ones(size), torch.zeros(size)) * norm.weight
    return y if norm.bias is None else y + norm.bias


def parts(rows: int, sizes: tuple[int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k and v as views of one product's rows."""
    size, value_dim = sizes
    widths = [H * size, K * size, K * value_dim]
    qkv = normal(rows, sum(widths) + 16, dtype=dtype)[:, 8:-8]
    split = qkv.split(widths, dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(split, [(H, size), (K, size), (K, value_dim)], strict=True)]


@pytest.mark.parametrize(
    ("sizes", "half", "kind", "has_own_weights", "dtype"),
    [
        ((64, 64), 32, None, False, torch.float32),
        ((80, 48), 16, InputKind.RMS_NORM, False, torch.bfloat16),  # a part of each head is not rotated
        ((48, 48), 24, InputKind.LAYER_NORM, True, torch.float32),
        ((80, 80), 16, InputKind.LAYER_NORM, False, torch.float32),
        ((64, 64), 0, InputKind.RMS_NORM, True, torch.float32),
    ],
)
def test_heads_are_normed_rotated_and_written(
    sizes: tuple[int, int], half: int, kind: InputKind | None, has_own_weights: bool, dtype: torch.dtype
) -> None:
    size, value_dim = sizes
    q, k, v = parts(ROWS, sizes, dtype)
    cache = torch.full((BLOCKS, 2, K, P, max(sizes)), UNTOUCHED, dtype=dtype)
    keys, values = cache[:, 0, ..., :size], cache[:, 1, ..., :value_dim]
    cos, sin = normal(2, ROWS, half, seed=3)
    rotary = RotaryEmbedding(cos, sin, normal(ROWS, seed=4))
    norms = None
    if kind is not None:
        norms = tuple(head_norm(kind, size, heads if has_own_weights else None, heads) for heads in (H, K))
    q_norm, k_norm = norms or (None, None)
    want, rotated = cache.clone(), rotate(normed(k, k_norm), rotary)
    want[2, 0, :, 1, :size], want[2, 1, :, 1, :value_dim] = rotated[0].to(dtype), v[0]

    with interpreting():
        got = rope_write(
            q, k, v, keys, values, SLOTS, (cos, sin) if half else None, q_scale=rotary.q_scale, norms=norms
        )

    tolerance = 1e-5 if dtype == torch.float32 else 2**-7
    assert got is not None
    expected = scale_queries(rotate(normed(q, q_norm), rotary), rotary)
    torch.testing.assert_close(got.float(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(cache.float(), want.float(), rtol=tolerance, atol=tolerance)


def test_keys_alone_are_written_where_values_are_a_part_of_them() -> None:
    _, k, _ = parts(ROWS, (64, 64), torch.float32)
    keys = torch.full((BLOCKS, K, P, 64), UNTOUCHED)

    with interpreting():
        assert rope_write(None, k, None, keys, None, SLOTS) is None

    assert torch.equal(keys[2, :, 1], k[0])
    assert int((keys != UNTOUCHED).any(dim=-1).sum()) == K


def test_rows_are_written_in_order_without_slots() -> None:
    _, k, _ = parts(ROWS, (64, 64), torch.float32)
    cos, sin = normal(2, ROWS, 32, seed=3)
    out = torch.empty(ROWS, K, 1, 64)

    with interpreting():
        rope_write(None, k, None, out, None, None, (cos, sin))

    torch.testing.assert_close(out.squeeze(2), rotate(k, RotaryEmbedding(cos, sin)), rtol=1e-5, atol=1e-5)
