"""HugePageArena: pieces are apart, aligned, and outlive the arena."""

import gc

import torch

from models.kernels.cpu.arena import HugePageArena


def test_pieces_are_aligned_and_do_not_overlap() -> None:
    arena = HugePageArena()
    sizes = [1, 63, 64, 65, 5 << 20, 40 << 20, 3, 31 << 20]
    pieces = [arena.allocate(size) for size in sizes]
    for value, (piece, size) in enumerate(zip(pieces, sizes, strict=True)):
        assert piece.dtype == torch.uint8
        assert len(piece) == size
        assert piece.data_ptr() % 64 == 0
        piece.fill_(value)
    assert all(bool((piece == value).all()) for value, piece in enumerate(pieces))


def test_pieces_outlive_the_arena() -> None:
    arena = HugePageArena()
    piece = arena.allocate(1000).fill_(7)
    del arena
    gc.collect()
    assert int(piece.sum()) == 7000
