"""GGUF's formats whose matrices are read as codes with a scale for 32 columns: IQ4_NL, MXFP4 and IQ4_XS."""

from collections.abc import Callable

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from models.checkpoints.base import StoredQuant
from models.errors import CheckpointError
from models.quant.nibbles import pack_nibbles, unpack_nibbles
from models.quant.tensor import Encoding, QuantKind, QuantTensor

_GROUP = 32  # columns


def stored_codes(
    kind: GGMLQuantizationType, shape: tuple[int, ...], rows: torch.Tensor, refuse: Callable[[], CheckpointError]
) -> StoredQuant | None:
    """How to read the matrix as codes, or None if its format is another. rows: [rows, bytes a row], not read yet.

    refuse: makes the error for scales that are no finite numbers.
    """
    if kind not in _READERS or len(shape) != 2:
        return None
    encoding, split = _READERS[kind]
    block_columns, block_bytes = GGML_QUANT_SIZES[kind]

    def read() -> QuantTensor:
        scales, pairs = split(rows.unflatten(1, (shape[1] // block_columns, block_bytes)))
        is_finite = scales != 255 if scales.dtype == torch.uint8 else scales.isfinite()  # 255 is E8M0's NaN
        if not bool(is_finite.all()):
            raise refuse()
        # in each 16 bytes, column i in the low nibble of byte i, i + 16 in the high one
        codes = torch.cat((pairs & 15, pairs >> 4), dim=-1).flatten(1)
        return QuantTensor(encoding, pack_nibbles(codes), scales.flatten(1), None, group_size=_GROUP)

    return StoredQuant(QuantKind(encoding, _GROUP), read)


# Each takes blocks [rows, blocks, bytes]; returns scales [rows, .., 1 for 32 columns], and codes [rows, .., 16 bytes].


def _split_iq4_nl(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return blocks[..., :2].contiguous().view(torch.float16), blocks[..., 2:]


def _split_mxfp4(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return blocks[..., :1], blocks[..., 1:]


def _split_iq4_xs(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """fp16 d, then for 8 groups of 32 columns a factor of 6 bits: upper pairs in 2 bytes, low nibbles in 4."""
    d, high, low, pairs = blocks.split((2, 2, 4, 128), dim=-1)
    upper = torch.stack([high >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1).flatten(-2)
    factors = (unpack_nibbles(low) | upper << 4).to(torch.float32) - 32
    scales = d.contiguous().view(torch.float16).to(torch.float32) * factors  # 17 bits: exact
    return scales, pairs.unflatten(-1, (8, 16))


_READERS = {
    GGMLQuantizationType.IQ4_NL: (Encoding.IQ4_NL, _split_iq4_nl),
    GGMLQuantizationType.MXFP4: (Encoding.E2M1, _split_mxfp4),
    GGMLQuantizationType.IQ4_XS: (Encoding.IQ4_NL, _split_iq4_xs),
}
