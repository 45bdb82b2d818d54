"""Tiles of the Triton kernels by device and shape: a table, since nothing is tuned while a server runs."""

from collections.abc import Mapping
from typing import NamedTuple

import torch


class Tiles(NamedTuple):
    """rows: of queries, the most for decode. positions: keys in a step of the loop."""

    rows: int
    positions: int
    num_warps: int
    num_stages: int


# (kernel, compute capability times 10, shape class) -> tiles, which have not been timed on a GPU. Classes of attention:
# columns of the wider of a head's key and value; "latent" for values in keys of more columns than 256; and "fp32".
# " codes": a quantized cache, which takes registers.
TABLE: Mapping[tuple[str, int, str], Tiles] = {
    ("decode", 80, "64"): Tiles(64, 64, 4, 3),
    ("decode", 80, "128"): Tiles(64, 32, 8, 3),
    ("decode", 80, "256"): Tiles(64, 32, 8, 2),
    ("decode", 80, "fp32"): Tiles(32, 16, 4, 2),
    ("decode", 90, "64"): Tiles(64, 64, 4, 3),
    ("decode", 90, "128"): Tiles(64, 64, 4, 3),
    ("decode", 90, "256"): Tiles(64, 32, 4, 3),
    ("decode", 90, "fp32"): Tiles(32, 16, 4, 2),
    ("prefill", 80, "64"): Tiles(64, 64, 4, 2),
    ("prefill", 80, "128"): Tiles(64, 64, 8, 2),
    ("prefill", 80, "256"): Tiles(64, 32, 8, 2),
    ("prefill", 80, "fp32"): Tiles(32, 16, 4, 2),
    ("prefill", 90, "64"): Tiles(128, 64, 8, 3),
    ("prefill", 90, "128"): Tiles(128, 64, 8, 3),
    ("prefill", 90, "256"): Tiles(64, 64, 8, 2),
    ("prefill", 90, "fp32"): Tiles(32, 16, 4, 2),
    ("prefill", 90, "128 codes"): Tiles(128, 32, 8, 3),
    ("prefill", 90, "256 codes"): Tiles(64, 32, 8, 2),
    ("decode", 80, "latent"): Tiles(32, 16, 8, 2),
    ("decode", 80, "latent codes"): Tiles(32, 16, 8, 2),
    ("decode", 90, "latent"): Tiles(32, 32, 8, 2),
    ("prefill", 80, "latent"): Tiles(32, 32, 8, 2),
    ("prefill", 90, "latent codes"): Tiles(32, 16, 8, 2),
}


class GroupedTiles(NamedTuple):
    """Tile of a product of routed rows. rows: pairs of a row and an expert. columns: of the weight, in a step."""

    rows: int
    outputs: int
    columns: int
    num_warps: int
    num_stages: int


# (fewest pairs for each expert on average, tiles) in order; none was timed on a GPU.
_GROUPED = (
    (0, GroupedTiles(16, 64, 128, 4, 3)),
    (16, GroupedTiles(64, 128, 64, 4, 3)),
    (128, GroupedTiles(128, 128, 64, 8, 3)),
)
_GROUPED_FP32 = GroupedTiles(16, 32, 32, 4, 2)


def grouped_tiles(pairs_per_expert: float, dtype: torch.dtype) -> GroupedTiles:
    """Return the tiles of a product of routed rows in `dtype`."""
    if dtype == torch.float32:
        return _GROUPED_FP32
    return next(tiles for fewest, tiles in reversed(_GROUPED) if pairs_per_expert >= fewest)


class LowRankTiles(NamedTuple):
    """Tile of a product with LoRA pairs. ranks: the most. split: input columns of a program, `columns` in a step."""

    rows: int
    ranks: int
    outputs: int
    columns: int
    split: int


# (fewest rows, tiles) in order; none was timed on a GPU. 64 rows by 64 ranks spill registers on compute capability 10.
_LOW_RANK = ((0, LowRankTiles(16, 64, 64, 128, 512)), (65, LowRankTiles(64, 32, 64, 64, 1024)))


def low_rank_tiles(num_rows: int, dtype: torch.dtype) -> LowRankTiles:
    """Return the tiles of a product of rows with LoRA pairs in `dtype`."""
    tiles = next(tiles for fewest, tiles in reversed(_LOW_RANK) if num_rows >= fewest)
    return tiles if dtype != torch.float32 else tiles._replace(rows=16, ranks=32, outputs=32, columns=32)


def tiles_for(kernel: str, sm: int, shape_class: str) -> Tiles:
    """Return the tiles of the newest listed device that is not newer than `sm`. A class for " codes" that has none gets
    the plain one's."""
    for each in (shape_class, shape_class.removesuffix(" codes")):
        if devices := [device for name, device, shape in TABLE if (name, shape) == (kernel, each) and device <= sm]:
            return TABLE[kernel, max(devices), each]
    raise KeyError(f"no tiles for {kernel}, {shape_class} and compute capability {sm / 10}")
