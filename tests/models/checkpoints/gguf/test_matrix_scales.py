"""NVFP4 matrices of GGUF files: their second scale is a tensor beside them, without which the model is another."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from models.attention.reference import ReferenceAttention
from models.checkpoints.base import Checkpoint
from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.errors import CheckpointError
from models.linear.storage import WeightOptions
from models.loading.load import build_decoder
from models.loading.open import open_model
from models.quant.dequantize import dequantize
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.quantized import QUANTIZED, expected_of

FILE = QUANTIZED / "gguf-nvfp4" / "model.gguf"


def logits_of(checkpoint: Checkpoint | None, ids: list[int], dtype: torch.dtype) -> torch.Tensor:
    opened = open_model(ModelFiles(FILE.parent, (FILE,), "m"))
    if checkpoint is not None:
        opened = replace(opened, checkpoint=checkpoint)
    decoder, _ = build_decoder(opened, cpu_compute(dtype, ReferenceAttention()), WeightOptions(), lambda *_: None)
    [logits] = PagedRun(decoder).step([(PagedSequence(), ids)])
    return logits


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)], ids=["fp32", "bf16"])
def test_file_of_llama_cpp_has_the_logits_of_its_source(dtype: torch.dtype, bound: float) -> None:
    _, ids, expected = expected_of("modelopt-nvfp4")

    found = logits_of(None, ids[0].tolist(), dtype)

    # The source's library rounds matrices to bf16 before it multiplies them; this file's are not rounded.
    assert float((found - expected).norm() / expected.norm()) < max(bound, 0.008)


def test_without_the_second_scales_the_model_is_another() -> None:
    _, ids, expected = expected_of("modelopt-nvfp4")
    checkpoint = GGUFCheckpoint([FILE])
    for name, tensor in checkpoint.tensors.items():
        if tensor.quantized is not None:
            read = tensor.quantized.read
            plain = replace(tensor.quantized, read=lambda read=read: replace(read(), matrix_scale=1.0))
            checkpoint.tensors[name] = replace(tensor, quantized=plain)

    found = logits_of(checkpoint, ids[0].tolist(), torch.float32)

    assert float((found - expected).norm() / expected.norm()) > 0.5


def write(path: Path, scales: np.ndarray | None, *, kind: Kind = Kind.NVFP4) -> np.ndarray:
    """Write three experts' matrices in NVFP4 and `scales` beside them; return their values without the scales."""
    block_columns, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 127, (3, 5, 128 // block_columns * block_bytes), dtype=np.uint8)
    raw[..., 1::block_bytes] &= 0x3B  # halves of Q8_0 stay finite
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.ffn_up_exps.weight", raw, raw_dtype=kind)
    if scales is not None:
        writer.add_tensor("blk.0.ffn_up_exps.scale", scales)
    writer.add_tensor("blk.0.ffn_up_exps.input_scale", np.ones(3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.quants.dequantize(raw, kind)


def test_each_expert_has_its_own_scale(tmp_path: Path) -> None:
    scales = np.array([0.5, 1.7e-4, 3.0], np.float32)
    values = write(tmp_path / "m.gguf", scales)
    expected = torch.from_numpy(values * scales[:, None, None])

    tensors = GGUFCheckpoint([tmp_path / "m.gguf"]).tensors

    assert list(tensors) == ["blk.0.ffn_up_exps.weight"]
    stack = tensors["blk.0.ffn_up_exps.weight"]
    torch.testing.assert_close(stack.read(torch.float32), expected, rtol=2**-22, atol=0)
    for expert in range(3):
        part = stack.part(expert)
        assert part.shape == (5, 128)
        assert torch.equal(part.read(torch.float32), stack.read(torch.float32)[expert])
        assert torch.equal(dequantize(part.quantized.read(), torch.float32), part.read(torch.float32))


def test_matrices_without_a_scale_are_those_of_the_format(tmp_path: Path) -> None:
    values = write(tmp_path / "m.gguf", None)

    stack = GGUFCheckpoint([tmp_path / "m.gguf"]).tensors["blk.0.ffn_up_exps.weight"]

    assert torch.equal(stack.read(torch.float32), torch.from_numpy(values))


def test_scales_of_other_formats_stay_tensors_that_somebody_must_use(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", np.ones(3, np.float32), kind=Kind.Q8_0)

    tensors = GGUFCheckpoint([tmp_path / "m.gguf"]).tensors

    assert {"blk.0.ffn_up_exps.scale", "blk.0.ffn_up_exps.input_scale"} < set(tensors)


@pytest.mark.parametrize(
    ("scales", "reason"),
    [
        (np.ones(2, np.float32), r"shape \[2\].*must be 3 numbers in F32"),
        (np.ones(3, np.float16), "stored as F16"),
        (np.array([1, np.nan, 1], np.float32), "not finite"),
    ],
)
def test_scales_that_do_not_fit_are_refused(tmp_path: Path, scales: np.ndarray, reason: str) -> None:
    write(tmp_path / "m.gguf", scales)

    with pytest.raises(CheckpointError, match=reason):
        GGUFCheckpoint([tmp_path / "m.gguf"]).tensors["blk.0.ffn_up_exps.weight"].part(1).quantized.read()


def test_file_s_matrices_stay_packed() -> None:
    tensor = GGUFCheckpoint([FILE]).tensors["blk.0.attn_q.weight"]

    matrix = tensor.quantized.read()

    assert matrix.kind == tensor.quantized.kind
    assert matrix.codes.nbytes + matrix.scales.nbytes == tensor.num_bytes
    assert matrix.scales.dtype == torch.float8_e4m3fn
