"""GGUFRows: GGUF's formats in plain torch."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from models.checkpoints.gguf.blocks import GGUFRows
from models.kernels.formats import DENSE_DTYPES, WeightFormat
from tests.helpers.gguf_writer import random_blocks

FORMATS = [fmt for fmt in WeightFormat if fmt not in DENSE_DTYPES]


@pytest.mark.parametrize("fmt", FORMATS)
def test_numbers_are_gguf_s(fmt: WeightFormat) -> None:
    values = np.random.default_rng(1).normal(size=(5, 512)).astype(np.float32)
    kind = Kind[fmt.name]
    raw = random_blocks(values, kind) if fmt.name.endswith("_K") else gguf.quants.quantize(values, kind)

    dequantized = GGUFRows(fmt, torch.from_numpy(raw)).dequantize(torch.float32)

    assert np.array_equal(dequantized.numpy(), gguf.quants.dequantize(raw, kind))


def test_parts_are_all_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.checkpoints.gguf.blocks._PART_ELEMENTS", 70)  # two rows of 32 columns
    rows = torch.arange(5 * 18, dtype=torch.uint8).view(5, 18)

    parts = GGUFRows(WeightFormat.Q4_0, rows).parts()

    assert [len(part.rows) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.rows for part in parts]), rows)
