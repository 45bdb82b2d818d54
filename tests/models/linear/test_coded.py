"""Layers of quantized checkpoints on the Triton column: codes for few rows, dequantized for many, fp8 products."""

from pathlib import Path

import pytest
import torch

from models.checkpoints.base import StoredTensor
from models.decoder import Decoder
from models.errors import CheckpointError
from models.families.name_map import NameMap
from models.kernels.formats import WeightFormat
from models.kernels.triton.operations import TritonOperations
from models.linear.coded import MAX_ROWS, CodedLinearMethod
from models.linear.linear import Linear
from models.linear.storage import WeightOptions
from models.loading.load import build_decoder
from models.loading.open import open_model
from models.quant.activations import round_rows
from models.quant.dequantize import dequantize
from models.quant.tensor import QuantTensor
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.gpu.interpreter import interpreting
from tests.helpers.quantized import QUANTIZED
from tests.helpers.random_quantized import relative_error
from tests.models.kernels.test_quantized_linear import random_blocks
from tests.models.kernels.test_rows import normal

CPU = torch.device("cpu")
OPERATIONS = TritonOperations(CPU)
KINDS = ["awq-g32", "bnb-nf4", "ct-fp8-static", "ct-int8", "ct-mxfp4", "fp8-block", "gptq-int4-g32-actorder"]
FUSED, ALONE = "layers.0.attn.qkv", "layers.0.mlp.down"


def load(kind: str, dtype: torch.dtype) -> tuple[Decoder, dict[tuple[str, str | None], QuantTensor]]:
    """The fixture's decoder, and its quantized matrices by layer and shard."""
    opened = open_model(ModelFiles(QUANTIZED / kind, (), "m"))
    names = NameMap(opened.names)
    matrices = {}
    for name, tensor in opened.checkpoint.tensors.items():
        if tensor.quantized is not None:
            [to] = names.destinations(name)
            matrices[to.module, to.shard] = tensor.quantized.read()
    decoder, _ = build_decoder(opened, cpu_compute(dtype, ops=OPERATIONS), WeightOptions(), lambda *_: None)
    return decoder, matrices


@pytest.mark.parametrize("kind", KINDS)
def test_layers_equal_the_dequantized_product_on_rounded_rows(kind: str) -> None:
    decoder, matrices = load(kind, torch.float32)

    for name in (FUSED, ALONE):
        layer = decoder.get_submodule(name)
        assert isinstance(layer, Linear)
        assert layer.method.name == "coded"
        x = normal(2, layer.in_features)
        with interpreting():
            got = layer(x)
        for shard in layer.shards or [None]:
            matrix = matrices[name, shard]
            want = round_rows(x, matrix).double() @ dequantize(matrix, torch.float64).T
            bias = 0 if layer.bias is None else layer.bias.narrow(0, *layer.rows(shard))
            assert relative_error(got.narrow(1, *layer.rows(shard)) - bias, want) < 1e-5, (name, shard)


@pytest.mark.parametrize("kind", ["ct-fp8-dynamic", "ct-fp8-static", "fp8-tensor-static"])
def test_fp8_rows_are_multiplied_in_fp8(kind: str) -> None:
    decoder, matrices = load(kind, torch.bfloat16)

    for name in (FUSED, ALONE):
        layer = decoder.get_submodule(name)
        assert isinstance(layer, Linear)
        assert layer.method.name == "scaled"
        x = normal(3, layer.in_features, dtype=torch.bfloat16)
        got = layer(x, out_dtype=torch.float32)
        rows = layer.read_rows(0, layer.out_features)
        for shard in layer.shards or [None]:
            matrix, (first, count) = matrices[name, shard], layer.rows(shard)
            want = round_rows(x.float(), matrix).double() @ dequantize(matrix, torch.float64).T
            bias = 0 if layer.bias is None else layer.bias.narrow(0, first, count)
            assert relative_error(got.narrow(1, first, count) - bias, want) < 2**-7, (name, shard)
            assert torch.equal(rows[first : first + count], dequantize(matrix, torch.float32))


def gguf_layer(fmt: WeightFormat, dtype: torch.dtype, raw: torch.Tensor) -> Linear:
    method = CodedLinearMethod({None: fmt}, dtype, CPU, OPERATIONS.linear())
    layer = Linear(256, len(raw), has_bias=False, method=method)
    stored = StoredTensor("w", tuple(raw.shape), fmt.name, raw.numel(), Path("w.gguf"), None, lambda: raw)
    method.load(layer, None, stored, lambda rows: rows)
    method.process_after_loading(layer)
    return layer


@pytest.mark.parametrize("rows", [2, MAX_ROWS + 1])
def test_gguf_blocks_are_multiplied_and_added_to_the_residual(rows: int) -> None:
    raw, dense = random_blocks(WeightFormat.Q4_K, 16, 256)
    layer = gguf_layer(WeightFormat.Q4_K, torch.float32, raw)
    x, residual = normal(rows, 256), normal(rows, 16, seed=1)
    want = x.double() @ dense.double().T + residual

    with interpreting():
        got = layer(x, residual=residual)

    assert got.data_ptr() == residual.data_ptr()
    assert relative_error(got, want) < 1e-5


def test_rows_are_looked_up_and_read() -> None:
    raw, dense = random_blocks(WeightFormat.Q6_K, 16, 256)
    layer = gguf_layer(WeightFormat.Q6_K, torch.float32, raw)

    with interpreting():
        looked_up, read = layer.method.look_up(torch.tensor([3, 0]), layer), layer.read_rows(14, 2)

    torch.testing.assert_close(looked_up, dense[[3, 0]], rtol=1e-6, atol=0.0)
    torch.testing.assert_close(read, dense[14:], rtol=1e-6, atol=0.0)


def test_a_scale_that_is_not_finite_is_refused() -> None:
    raw, _ = random_blocks(WeightFormat.Q4_0, 16, 256)
    raw[3, :2] = torch.tensor([float("inf")], dtype=torch.float16).view(torch.uint8)

    with pytest.raises(CheckpointError, match=r"w\.gguf: 'w' has scales that are not finite"):
        gguf_layer(WeightFormat.Q4_0, torch.float32, raw)
