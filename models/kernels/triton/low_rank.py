"""LoRA adapters of a linear layer by the slot of each row (Triton): no row is gathered, and the host reads nothing.

Row t with slot s gets b[s] (a[s] x[t]) (Hu et al. 2021), in two launches: `shrink_kernel` multiplies by a, and
`expand_kernel` by b. A program belongs to a tile of rows and to one slot, and leaves rows of other slots as they are;
Punica (Chen et al. 2023) has the same products for segments that the host knows. Programs without rows return after
reading the slots. Steps order rows by slot, so that most tiles of a prompt have one; tiles of decodes may have several.

With few rows, a is what takes time: columns are split between programs, and their sums are added in order by
`expand_kernel`. Only ranks that an adapter has are read.
"""

import torch
import triton
import triton.language as tl

from models.kernels.operands import LowRankStack
from models.kernels.triton.launch import launch
from models.kernels.triton.tuned import low_rank_tiles

_UNALIGNED = ["slots"]  # a view into a step's buffers


@triton.jit(do_not_specialize=["T"], do_not_specialize_on_alignment=_UNALIGNED)
def shrink_kernel(
    x,  # [T, K], rows x_row apart
    slots,  # [T] int32
    a,  # [SLOTS, PARTS, RANKS, K]
    ranks,  # [SLOTS, PARTS] int32
    low,  # [splits, T, PARTS, RANKS] fp32
    T,
    K,
    x_row,
    SLOTS: tl.constexpr,
    PARTS: tl.constexpr,
    RANKS: tl.constexpr,
    SPLIT: tl.constexpr,  # columns of a split
    BLOCK_M: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """low[split, t, part] = a[slot of t, part] x[t] over the split's columns.

    Grid: (tiles of rows, parts * blocks of ranks, splits * slots).
    """
    slot, split = tl.program_id(2) % SLOTS, tl.program_id(2) // SLOTS
    blocks: tl.constexpr = RANKS // BLOCK_R
    part, first_rank = tl.program_id(1) // blocks, tl.program_id(1) % blocks * BLOCK_R
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    own = tl.load(slots + m, mask=m < T, other=-1) == slot
    rank = tl.load(ranks + slot * PARTS + part)
    if (tl.max(own.to(tl.int32), 0) == 0) | (first_rank >= rank):
        return
    r = first_rank + tl.arange(0, BLOCK_R)
    used = r < rank
    x_at = x + m.to(tl.int64)[:, None] * x_row
    a_at = a + ((slot * PARTS + part) * RANKS + r).to(tl.int64)[:, None] * K
    total = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
    for start in range(0, SPLIT, BLOCK_K):
        k = (split * SPLIT + start + tl.arange(0, BLOCK_K))[None, :]
        rows = tl.load(x_at + k, mask=own[:, None] & (k < K), other=0.0)
        columns = tl.load(a_at + k, mask=used[:, None] & (k < K), other=0.0)
        total = tl.dot(rows, tl.trans(columns), total, input_precision="ieee")
    low_at = low + ((split * T + m).to(tl.int64)[:, None] * PARTS + part) * RANKS + r[None, :]
    tl.store(low_at, total, mask=own[:, None] & used[None, :])


@triton.jit(do_not_specialize=["T"], do_not_specialize_on_alignment=_UNALIGNED)
def expand_kernel(
    low,  # [SPLITS, T, PARTS, RANKS] fp32
    slots,  # [T] int32
    b,  # [SLOTS, N, RANKS]
    ranks,  # [SLOTS, PARTS] int32
    parts,  # [PARTS, 2] int32, first output and outputs
    vectors,  # [SLOTS, 2, N] fp32, gains and shifts, or None
    residual,  # [T, N], or None
    out,  # [T, N]
    T,
    N,
    residual_row,
    out_row,
    PARTS: tl.constexpr,
    RANKS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCKS: tl.constexpr,  # of outputs, in the largest part
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """out[t] = gain * out[t] + b low[t] + shift + (1 - gain) * residual[t], in rows with an adapter.

    Grid: (tiles of rows, parts * blocks of outputs, slots).
    """
    slot = tl.program_id(2)
    part, block = tl.program_id(1) // BLOCKS, tl.program_id(1) % BLOCKS
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    own = tl.load(slots + m, mask=m < T, other=-1) == slot
    rank = tl.load(ranks + slot * PARTS + part)
    count = tl.load(parts + 2 * part + 1)
    if (tl.max(own.to(tl.int32), 0) == 0) | (block * BLOCK_N >= count):
        return
    if (vectors is None) & (rank == 0):
        return
    of_part = block * BLOCK_N + tl.arange(0, BLOCK_N)
    n, is_output = tl.load(parts + 2 * part) + of_part, of_part < count
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for first_rank in range(0, RANKS, BLOCK_R):
        r = first_rank + tl.arange(0, BLOCK_R)
        used = (r < rank)[None, :]
        lows = tl.zeros((BLOCK_M, BLOCK_R), dtype=tl.float32)
        for split in range(SPLITS):
            low_at = low + ((split * T + m).to(tl.int64)[:, None] * PARTS + part) * RANKS + r[None, :]
            lows += tl.load(low_at, mask=own[:, None] & used, other=0.0)
        b_at = b + (slot * N + n).to(tl.int64)[:, None] * RANKS + r[None, :]
        rows_of_b = tl.load(b_at, mask=is_output[:, None] & used, other=0.0)
        total = tl.dot(lows.to(rows_of_b.dtype), tl.trans(rows_of_b), total, input_precision="ieee")
    mask = own[:, None] & is_output[None, :]
    out_at = out + m.to(tl.int64)[:, None] * out_row + n[None, :]
    y = tl.load(out_at, mask=mask, other=0.0).to(tl.float32)
    if vectors is not None:
        gain = tl.load(vectors + slot * 2 * N + n, mask=is_output, other=1.0)[None, :]
        shift = tl.load(vectors + (slot * 2 + 1) * N + n, mask=is_output, other=0.0)[None, :]
        y = y * gain + shift
        if residual is not None:  # is in y, too, and must not be scaled
            residual_at = residual + m.to(tl.int64)[:, None] * residual_row + n[None, :]
            y += (1.0 - gain) * tl.load(residual_at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_at, (y + total).to(out.dtype.element_ty), mask=mask)


def add_low_rank(
    rows: torch.Tensor,
    slots: torch.Tensor,
    stack: LowRankStack,
    out: torch.Tensor,
    residual: torch.Tensor | None = None,
) -> None:
    """Apply the adapter of each row's slot to `out` [T, N], in place.

    rows: [T, K], the layer's input in the dtype of the stack. slots: [T] int32, -1 for rows without an adapter.
    residual: [T, N], which `out` contains already; needed if the stack has gains.
    """
    num_rows, (num_slots, num_parts, num_ranks, columns) = len(rows), stack.a.shape
    assert rows.shape[1] == columns
    assert rows.stride(1) == out.stride(1) == 1
    assert len(slots) == len(out) == num_rows
    if not num_rows:
        return
    tiles = low_rank_tiles(num_rows, stack.a.dtype)
    num_splits = triton.cdiv(columns, tiles.split)
    block_r = min(num_ranks & -num_ranks, tiles.ranks)
    num_tiles = triton.cdiv(num_rows, tiles.rows)
    low = torch.empty(num_splits, num_rows, num_parts, num_ranks, dtype=torch.float32, device=rows.device)
    sizes = {"PARTS": num_parts, "RANKS": num_ranks, "BLOCK_M": tiles.rows, "BLOCK_R": block_r}
    launch(
        shrink_kernel,
        (num_tiles, num_parts * (num_ranks // block_r), num_splits * num_slots),
        *(rows, slots, stack.a, stack.ranks, low, num_rows, columns, rows.stride(0)),
        **sizes,
        SLOTS=num_slots,
        SPLIT=tiles.split,
        BLOCK_K=tiles.columns,
        num_warps=4,
        num_stages=3,
    )
    blocks = triton.cdiv(stack.largest_part, tiles.outputs)
    launch(
        expand_kernel,
        (num_tiles, num_parts * blocks, num_slots),
        *(low, slots, stack.b, stack.ranks, stack.parts, stack.vectors, residual, out, num_rows, out.shape[1]),
        *(0 if residual is None else residual.stride(0), out.stride(0)),
        **sizes,
        SPLITS=num_splits,
        BLOCKS=blocks,
        BLOCK_N=tiles.outputs,
        num_warps=4,
        num_stages=2,
    )
