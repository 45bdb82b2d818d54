"""Layers of checkpoints that the formats' own libraries wrote, computed with as they are stored: natively, in torch."""

import pytest
import torch

from models.decoder import Decoder
from models.families.name_map import NameMap
from models.kernels.cpu.library import kernel_library
from models.linear.linear import Linear
from models.linear.storage import WeightOptions
from models.loading.load import build_decoder
from models.loading.open import open_model
from models.quant.activations import round_rows
from models.quant.dequantize import dequantize
from models.quant.tensor import ActivationQuantization, Encoding, QuantTensor, rearrange_rows
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import cpu_compute
from tests.helpers.quantized import KINDS, QUANTIZED
from tests.helpers.random_quantized import relative_error, rounded_to_int8

LLAMAS = [kind for kind in KINDS if not kind.startswith("mxfp4-experts")]
_INTEGERS = (Encoding.INT4, Encoding.INT8, Encoding.E2M1, Encoding.IQ4_NL)


def load(kind: str, dtype: torch.dtype) -> tuple[Decoder, dict[tuple[str, str | None], QuantTensor]]:
    """The fixture's decoder, and its quantized matrices by layer and shard."""
    opened = open_model(ModelFiles(QUANTIZED / kind, (), "m"))
    names = NameMap(opened.names)
    matrices = {}
    for name, tensor in opened.checkpoint.tensors.items():
        if tensor.quantized is not None:
            [to] = names.destinations(name)
            matrices[to.module, to.shard] = rearrange_rows(tensor.quantized.read(), lambda rows: rows)
    compute = cpu_compute(dtype)
    decoder, _ = build_decoder(opened, compute, WeightOptions(), lambda *_: None)
    return decoder, matrices


def product(x: torch.Tensor, matrix: QuantTensor, *, is_native: bool) -> torch.Tensor:
    rows = round_rows(x, matrix).double()
    if is_native and matrix.activation is ActivationQuantization.NONE and matrix.encoding in _INTEGERS:
        order = torch.arange(x.shape[1]) if matrix.permutation is None else matrix.permutation
        rows = torch.empty_like(rows).index_copy_(1, order, rounded_to_int8(x[:, order]))
    return rows @ dequantize(matrix, torch.float64).T


@pytest.mark.parametrize("kind", LLAMAS)
@pytest.mark.parametrize("method", ["native", "dequantizing"])
def test_layers_equal_the_dequantized_product_on_rounded_rows(kind: str, method: str) -> None:
    if method == "native" and kernel_library() is None:
        pytest.skip("there is no C++ compiler for the native kernels")
    decoder, matrices = load(kind, torch.bfloat16 if method == "native" else torch.float32)

    for name in {module for module, _ in matrices}:
        layer = decoder.get_submodule(name)
        assert isinstance(layer, Linear)
        is_native = layer.method.name == "native"
        assert is_native == (method == "native"), (name, layer.method.name, matrices)
        x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0)).bfloat16().float()
        got = layer(x, out_dtype=torch.float32)
        for shard in layer.shards or [None]:
            matrix = matrices.get((name, shard))
            if matrix is not None:
                expected = product(x, matrix, is_native=is_native)
                bias = 0 if layer.bias is None else layer.bias.narrow(0, *layer.rows(shard))
                assert relative_error(got.narrow(1, *layer.rows(shard)) - bias, expected) < 1e-3, (name, shard)
