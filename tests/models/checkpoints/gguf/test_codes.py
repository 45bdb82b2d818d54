"""GGUF formats that are read in another format have exactly the numbers that gguf dequantizes."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from models.checkpoints.gguf import codes
from models.checkpoints.gguf.codes import stored_codes
from models.errors import CheckpointError
from models.quant.dequantize import dequantize


def random_blocks(kind: Kind, rows: int, blocks: int) -> np.ndarray:
    """[rows, bytes] in which every bit is used, and scales are moderate."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    scales = rng.uniform(-0.05, 0.05, (rows, blocks)).astype(np.float16)[..., None].view(np.uint8)
    match kind:
        case Kind.TQ1_0 | Kind.TQ2_0:
            raw[..., -2:] = scales
        case Kind.IQ1_M:  # the block's scale is in the upper 4 bits of 4 words
            words = raw[..., -8:].view(np.uint16)
            halves = scales.view(np.uint16)
            words[...] = words & 0x0FFF | (halves >> np.array([0, 4, 8, 12], np.uint16) & 15) << 12
        case Kind.MXFP4:
            raw[..., 0] = rng.integers(110, 125, (rows, blocks))
        case Kind.NVFP4:
            raw[..., :4] = rng.integers(0, 0x7F, (rows, blocks, 4))
        case _:
            raw[..., :2] = scales
    return raw.reshape(rows, -1)


KINDS = [
    *(Kind.IQ4_NL, Kind.IQ4_XS, Kind.MXFP4, Kind.NVFP4),
    *(Kind.IQ1_S, Kind.IQ1_M, Kind.IQ2_XXS, Kind.IQ2_XS, Kind.IQ2_S),
    *(Kind.IQ3_XXS, Kind.IQ3_S, Kind.TQ1_0, Kind.TQ2_0),
]


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_scales_are_gguf_s(kind: Kind) -> None:
    raw = random_blocks(kind, 50, 3)
    columns = 3 * gguf.GGML_QUANT_SIZES[kind][0]

    stored = stored_codes(kind, (50, columns), torch.from_numpy(raw), CheckpointError)

    assert stored is not None
    quantized = stored.read()
    assert quantized.kind == stored.kind
    assert np.array_equal(dequantize(quantized, torch.float32).numpy(), gguf.quants.dequantize(raw, kind))


def test_other_formats_are_no_codes() -> None:
    assert stored_codes(Kind.Q4_0, (1, 32), torch.zeros(1, 18, dtype=torch.uint8), CheckpointError) is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name[:3] in ("IQ1", "IQ2", "IQ3", "TQ1", "TQ2")])
def test_numbers_of_scale_zero_are_zero_and_scales_that_are_none_are_refused(kind: Kind) -> None:
    raw = random_blocks(kind, 4, 1)
    columns = gguf.GGML_QUANT_SIZES[kind][0]
    set_scale(kind, raw[1], 0.0)
    stored = stored_codes(kind, (4, columns), torch.from_numpy(raw), CheckpointError)
    assert stored is not None
    assert not dequantize(stored.read(), torch.float32)[1].any()

    set_scale(kind, raw[2], np.nan)
    with pytest.raises(CheckpointError):
        stored.read()


def set_scale(kind: Kind, block: np.ndarray, scale: float) -> None:
    """Set the fp16 scale of a block."""
    half = np.array([scale], np.float16)
    if kind is Kind.IQ1_M:
        words = block[-8:].view(np.uint16)
        words[...] = words & 0x0FFF | (half.view(np.uint16) >> np.array([0, 4, 8, 12], np.uint16) & 15) << 12
    else:
        block[slice(-2, None) if kind in (Kind.TQ1_0, Kind.TQ2_0) else slice(0, 2)] = half.view(np.uint8)


@pytest.mark.parametrize("kind", [Kind.IQ1_S, Kind.IQ1_M, Kind.IQ2_XXS, Kind.IQ2_XS, Kind.IQ2_S])
def test_one_and_two_bits_take_at_most_six_in_memory(kind: Kind) -> None:
    columns = gguf.GGML_QUANT_SIZES[kind][0]
    matrix = stored_codes(kind, (4, columns), torch.from_numpy(random_blocks(kind, 4, 1)), CheckpointError).read()

    assert (matrix.codes.nbytes + matrix.scales.nbytes) * 8 <= 6 * 4 * columns


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_matrix_is_read_in_parts(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "_CHUNK_ELEMENTS", 1000)
    test_codes_and_scales_are_gguf_s(kind)
