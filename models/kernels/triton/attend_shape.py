"""AttendShape: what an attention kernel is compiled for. A change of any field compiles the kernel anew."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import scale_slots
from models.kernels.triton.tuned import Tiles

SLOTS = 16  # of a tile of the KV cache
KV_CODES: Mapping[torch.dtype, int] = {torch.int8: 1, torch.float8_e4m3fn: 2, torch.float8_e5m2: 3}
_LEAST = 16  # columns and rows of a product


@dataclass(frozen=True, slots=True)
class AttendShape:
    """Sizes of heads, tiles and masks.

    A key has two parts, whose columns are powers of two: `main` and `rest` (0 columns: none). Values that are a part of
    the keys are their main part. A tile has `tokens` rows of a sequence with `heads` heads of a key head each, in
    `rows` rows of the tensor cores; `blocks` tiles have all heads of a key head.
    """

    kv_heads: int
    group: int  # heads that share a key head
    key_size: int
    value_size: int
    has_values: bool  # stored beside the keys
    main: int
    main_at: int
    main_size: int
    rest: int
    rest_at: int
    rest_size: int
    value_columns: int
    block_size: int
    window: int  # 0: none
    chunk: int  # 0: none
    is_causal: bool
    softcap: float  # 0: none
    precision: str  # of products in fp32
    rows: int
    tokens: int
    heads: int
    blocks: int
    positions: int  # keys in a step of the loop
    code: int  # of KV_CODES; 0: keys and values are numbers
    spread: int  # numbers of a query that are multiplied by the Hadamard matrix; 0: none
    is_split: bool  # whether such queries need two numbers of their dtype

    @property
    def tile_size(self) -> int:
        """Numbers in a tile of slots."""
        return SLOTS * self.kv_heads * (self.key_size + (self.value_size if self.has_values else 0))

    @property
    def scale_tile(self) -> int:
        """Numbers in the room for a tile's scales: of keys [key heads, 16], then of values, and then unused ones."""
        return SLOTS * self.kv_heads * (scale_slots(self.key_size) + self.has_values * scale_slots(self.value_size))

    @property
    def spread_factor(self) -> float:
        """Factor of the Hadamard matrix's signs."""
        return 1.0 / math.sqrt(self.spread)

    @property
    def is_plain(self) -> bool:
        """Whether a query sees all positions up to its own."""
        return self.is_causal and not self.window and not self.chunk


def attend_shape(
    spec: AttentionSpec,
    dtype: torch.dtype,
    block_size: int,
    code_dtype: torch.dtype | None,
    is_spread: bool,
    tiles: Tiles,
    tokens: int,
) -> AttendShape:
    """Return the shape for a layer. tokens: rows of a sequence in a tile, 0: as many as `tiles.rows` have room for.

    code_dtype: of a quantized cache, a key of KV_CODES. is_spread: whether its keys were multiplied by the Hadamard
    matrix.
    """
    group = spec.num_heads // spec.num_kv_heads
    heads = min(group, tiles.rows)
    if spec.values_from is None:
        main_at, main_size = 0, min(spec.head_dim, 1 << (spec.head_dim.bit_length() - 1))
        rest_at, rest_size = main_size, spec.head_dim - main_size
    else:
        main_at, main_size = spec.values_from, spec.head_dim - spec.values_from
        rest_at, rest_size = 0, spec.values_from
    return AttendShape(
        kv_heads=spec.num_kv_heads,
        group=group,
        key_size=spec.head_dim,
        value_size=spec.value_dim,
        has_values=spec.values_from is None,
        main=_columns(main_size),
        main_at=main_at,
        main_size=main_size,
        rest=_columns(rest_size),
        rest_at=rest_at,
        rest_size=rest_size,
        value_columns=_columns(spec.value_dim),
        block_size=block_size,
        window=spec.sliding_window or 0,
        chunk=spec.chunk or 0,
        is_causal=spec.is_causal,
        softcap=spec.logit_softcap or 0.0,
        precision="tf32x3" if dtype == torch.float32 else "tf32",
        rows=_columns(tokens * heads) if tokens else tiles.rows,
        tokens=tokens or tiles.rows // heads,
        heads=heads,
        blocks=-(-group // heads),
        positions=tiles.positions,
        code=0 if code_dtype is None else KV_CODES[code_dtype],
        spread=spec.head_dim & -spec.head_dim if is_spread else 0,
        is_split=is_spread and dtype != torch.float32,
    )


def _columns(size: int) -> int:
    """Return the next power of two from 16 on; 0 for 0."""
    return max(_LEAST, 1 << (size - 1).bit_length()) if size else 0
