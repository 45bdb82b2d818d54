"""GGUF formats that are held as something else keep the very numbers that gguf reads in them."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from models.checkpoints.gguf_codes import stored_codes
from models.errors import CheckpointError
from models.quant.dequantise import dequantise


def random_blocks(kind: Kind, rows: int, blocks: int) -> np.ndarray:
    """[rows, bytes] in which every bit is used, and scales are moderate."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    scales = rng.uniform(-0.05, 0.05, (rows, blocks)).astype(np.float16)[..., None].view(np.uint8)
    match kind:
        case Kind.IQ4_NL | Kind.IQ4_XS:
            raw[..., :2] = scales
        case Kind.MXFP4:
            raw[..., 0] = rng.integers(110, 125, (rows, blocks))
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", [Kind.IQ4_NL, Kind.IQ4_XS, Kind.MXFP4])
def test_codes_and_scales_are_gguf_s(kind: Kind) -> None:
    raw = random_blocks(kind, 5, 3)
    columns = 3 * gguf.GGML_QUANT_SIZES[kind][0]

    stored = stored_codes(kind, (5, columns), torch.from_numpy(raw), CheckpointError)

    assert stored is not None
    quantised = stored.read()
    assert quantised.kind == stored.kind
    assert np.array_equal(dequantise(quantised, torch.float32).numpy(), gguf.quants.dequantize(raw, kind))


def test_other_formats_are_no_codes() -> None:
    assert stored_codes(Kind.Q4_0, (1, 32), torch.zeros(1, 18, dtype=torch.uint8), CheckpointError) is None
