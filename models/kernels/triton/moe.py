"""Products of routed rows with the weights of their experts (Triton): one launch for all experts of a layer.

Pairs of a row and an expert are sorted by expert, and cut into tiles of pairs with the same expert. The number of tiles
depends on the experts' rows, which the host does not know: the grid has as many as there can be, and the last ones have
no expert. Pair p is row p // chosen of the batch.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from models.kernels.triton.launch import launch
from models.kernels.triton.tuned import GroupedTiles


class SortedPairs(NamedTuple):
    """Pairs of a row and an expert, sorted by expert, and the tiles that they are cut into."""

    order: torch.Tensor  # [P] int64, pairs
    ends: torch.Tensor  # [E] int64, of each expert's pairs in `order`
    expert_of_tile: torch.Tensor  # [tiles] int64; E for tiles without pairs
    tile_ends: torch.Tensor  # [E] int64, of each expert's tiles


def sort_pairs(experts: torch.Tensor, counts: torch.Tensor, tile_rows: int) -> SortedPairs:
    """Sort pairs by expert, on the device. experts: [P] int64, each pair's. counts: [E] int64, pairs of each expert."""
    num_pairs, num_experts = len(experts), len(counts)
    tile_ends = counts.add(tile_rows - 1).div(tile_rows, rounding_mode="floor").cumsum(0)
    most_tiles = num_pairs // tile_rows + min(num_pairs, num_experts)
    tiles = torch.arange(most_tiles, device=experts.device)
    return SortedPairs(
        experts.argsort(stable=True), counts.cumsum(0), torch.searchsorted(tile_ends, tiles, right=True), tile_ends
    )


@triton.jit
def grouped_kernel(
    x,  # rows, K numbers each
    weights,  # [E, N, K]
    biases,  # [E, N], or None
    factors,  # [P] fp32 of the pairs, or None
    order,
    ends,
    expert_of_tile,
    tile_ends,
    out,  # [P, N]
    x_row,
    N,
    K,
    EXPERTS: tl.constexpr,
    SHARED_BY: tl.constexpr,  # pairs with the same row of x
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """out[p] = factor[p] * (W[expert of p] x[p // SHARED_BY] + bias[expert of p]). Grid: (blocks of N, tiles)."""
    tile = tl.program_id(1)
    expert = tl.load(expert_of_tile + tile)
    if expert >= EXPERTS:
        return
    has_earlier = expert > 0
    first_tile = tl.load(tile_ends + expert - 1, mask=has_earlier, other=0)
    first = tl.load(ends + expert - 1, mask=has_earlier, other=0) + (tile - first_tile) * BLOCK_M
    at = first + tl.arange(0, BLOCK_M)
    inside = at < tl.load(ends + expert)
    pairs = tl.load(order + at, mask=inside, other=0)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x_at = x + (pairs // SHARED_BY)[:, None] * x_row + k[None, :]
    w_at = weights + (expert * N + n)[None, :] * K + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        left = k < K - start
        rows = tl.load(x_at + start, mask=inside[:, None] & left[None, :], other=0.0)
        columns = tl.load(w_at + start, mask=(n < N)[None, :] & left[:, None], other=0.0)
        total = tl.dot(rows, columns, total, input_precision="ieee")
    if biases is not None:
        total += tl.load(biases + expert * N + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    if factors is not None:
        total *= tl.load(factors + pairs, mask=inside, other=0.0)[:, None]
    y = total.to(out.dtype.element_ty)
    tl.store(out + pairs[:, None] * N + n[None, :], y, mask=inside[:, None] & (n < N)[None, :])


def multiply_grouped(
    x: torch.Tensor,
    weights: torch.Tensor,
    biases: torch.Tensor | None,
    pairs: SortedPairs,
    tiles: GroupedTiles,
    *,
    factors: torch.Tensor | None = None,
    out_dtype: torch.dtype,
) -> torch.Tensor:
    """Return factor * (W x + bias) of every pair, with the weight of its expert: [P, N] in `out_dtype`.

    x: [T, K], a row for P / T pairs that follow each other, in the dtype of weights. weights: [E, N, K], contiguous.
    biases: [E, N]. factors: [P] fp32. pairs: sorted for tiles of `tiles.rows`.
    """
    num_experts, num_outputs, columns = weights.shape
    out = torch.empty(len(pairs.order), num_outputs, dtype=out_dtype, device=x.device)
    if not len(out):
        return out
    launch(
        grouped_kernel,
        (triton.cdiv(num_outputs, tiles.outputs), len(pairs.expert_of_tile)),
        *(x, weights, biases, factors, pairs.order, pairs.ends, pairs.expert_of_tile, pairs.tile_ends, out),
        *(x.stride(0), num_outputs, columns),
        EXPERTS=num_experts,
        SHARED_BY=len(out) // len(x),
        BLOCK_M=tiles.rows,
        BLOCK_N=tiles.outputs,
        BLOCK_K=tiles.columns,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out
