"""Quantization on load: the error of the matrices, and the memory while a checkpoint streams in."""

import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoints.base import StoredTensor
from models.decoder import Decoder
from models.errors import CheckpointError, UnsupportedModelError
from models.kernels.cpu.library import kernel_library
from models.linear.linear import Linear
from models.linear.storage import WeightOptions
from models.quant.activations import round_rows
from models.quant.dequantize import dequantize
from models.quant.nibbles import unpack_nibbles
from models.quant.round_to_nearest import quantize_matrix
from models.quant.tensor import ActivationQuantization, Encoding, QuantKind, rearrange_rows
from tests.helpers.checkpoints import (
    gpt2_config,
    llama_config,
    load_folder,
    load_folder_with_note,
    random_model,
)
from tests.helpers.random_quantized import random_quantized, relative_error

needs_kernels = pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")


def gaussian(rows: int = 96, columns: int = 320) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.02


# Relative errors of a normal distribution's numbers. Without clipping int4 has 0.084 and 0.102.
@pytest.mark.parametrize(
    ("encoding", "group_size", "bound"),
    [
        (Encoding.INT4, 32, 0.082),
        (Encoding.INT4, 128, 0.099),
        (Encoding.INT8, None, 0.0075),
        (Encoding.INT8, 32, 0.0055),
        (Encoding.FP8_E4M3, None, 0.027),
        (Encoding.NF4, 64, 0.096),
        (Encoding.FP4, 64, 0.13),
    ],
)
def test_matrices_made_are_near(encoding: Encoding, group_size: int | None, bound: float) -> None:
    weight = gaussian()
    quantized = quantize_matrix(weight, encoding, group_size)
    assert relative_error(dequantize(quantized, torch.float32), weight) < bound


# Squares of the smallest vanish in fp32, and fp16 has none of the scales.
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-6, 1e7, 1e30])
@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.INT8, Encoding.FP8_E4M3, Encoding.NF4, Encoding.FP4])
def test_numbers_of_any_size_are_represented_equally_well(encoding: Encoding, size: float) -> None:
    weight = gaussian(4, 64)
    usual = relative_error(dequantize(quantize_matrix(weight, encoding), torch.float32), weight)
    sized = dequantize(quantize_matrix(weight * size, encoding), torch.float32) / size
    assert relative_error(sized, weight) < 1.1 * usual


@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.INT8, Encoding.FP8_E4M3, Encoding.NF4])
def test_zeros_stay_zeros_and_representable_numbers_stay(encoding: Encoding) -> None:
    weight = gaussian(4, 128)
    weight[1] = 0
    weight[2, :64] = 0
    quantized = quantize_matrix(weight, encoding, 32)
    once = dequantize(quantized, torch.float32)
    assert not once[1].any()
    assert not once[2, :64].any()
    twice = dequantize(quantize_matrix(once, encoding, 32), torch.float32)
    assert relative_error(twice, once) < 2e-3  # the scale is rounded to fp16


def test_rows_keep_their_scales_when_they_move() -> None:
    kind = QuantKind(Encoding.FP8_E4M3, 128, row_group=128)
    quantized = random_quantized(kind, 300, 256, scale_dtype=torch.float32)
    flipped = rearrange_rows(quantized, lambda rows: rows.flip(0))
    assert torch.equal(dequantize(flipped, torch.float32), dequantize(quantized, torch.float32).flip(0))
    assert rearrange_rows(quantized, lambda rows: rows) is quantized
    with pytest.raises(UnsupportedModelError, match="transposed"):
        rearrange_rows(quantized, lambda rows: rows.t())


def test_permuted_columns_stand_in_the_input_s_order() -> None:
    quantized = random_quantized(QuantKind(Encoding.INT4, 32, has_zeros=True), 3, 64, is_permuted=True)
    assert quantized.zeros is not None
    assert quantized.permutation is not None
    codes = unpack_nibbles(quantized.codes).float()
    dense = dequantize(quantized, torch.float32)
    column = 40
    expected = (codes[:, column] - quantized.zeros[:, 1]) * quantized.scales[:, 1].float()
    assert torch.equal(dense[:, quantized.permutation[column]], expected)


def test_rows_are_rounded_to_the_weights_type() -> None:
    x = torch.tensor([[1.0, -254.0, 0.4], [0.0, 0.0, 0.0]])
    per_token = random_quantized(QuantKind(Encoding.INT8, 3, activation=ActivationQuantization.DYNAMIC_PER_TOKEN), 1, 3)
    assert round_rows(x, per_token).tolist() == [[0.0, -254.0, 0.0], [0.0, 0.0, 0.0]]
    static = random_quantized(QuantKind(Encoding.INT8, 3, activation=ActivationQuantization.STATIC), 1, 3)
    assert round_rows(x, static)[0].tolist() == pytest.approx([1.0, -128 * 0.02, 0.4])


# --- on load ---------------------------------------------------------------------------------------------------------

ALL = {Encoding.INT4: "int4 g32", Encoding.INT8: "int8", Encoding.FP8_E4M3: "fp8", Encoding.NF4: "nf4 g64"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_model(llama_config(hidden_size=128, intermediate_size=256)).to(torch.bfloat16).save_pretrained(tmp_path)
    return tmp_path


def linears(decoder: Decoder) -> dict[str, Linear]:
    return {name: module for name, module in decoder.named_modules() if isinstance(module, Linear)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["native", "torch"])
@pytest.mark.parametrize(("encoding", "name"), ALL.items())
def test_layers_become_what_was_asked_for(folder: Path, dtype: torch.dtype, encoding: Encoding, name: str) -> None:
    plain = linears(load_folder(folder))
    decoder, note = load_folder_with_note(folder, dtype, weights=WeightOptions(quantize_to=encoding))

    assert "quantized on load from bf16 14" in note
    assert f"{name} 14 tensors" in note
    for layer_name, layer in linears(decoder).items():
        if layer_name in ("embed", "head"):
            assert layer.method.format_of(None) in ("bf16", "f32")
            continue
        weight = quantize_by_shard(plain[layer_name], encoding)
        x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(1)).to(dtype)
        assert relative_error(layer(x, out_dtype=torch.float32), x.float() @ weight.T) < 1e-2


def quantize_by_shard(layer: Linear, encoding: Encoding) -> torch.Tensor:
    parts = [layer.weight.narrow(0, *layer.rows(shard)) for shard in layer.shards or [None]]
    return torch.cat([dequantize(quantize_matrix(part, encoding), torch.float32) for part in parts])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["native", "torch"])
@pytest.mark.parametrize("encoding", [Encoding.INT4, Encoding.INT8, Encoding.NF4])
def test_groups_are_of_the_size_that_was_asked_for(folder: Path, dtype: torch.dtype, encoding: Encoding) -> None:
    layers = linears(load_folder(folder, dtype, weights=WeightOptions(quantize_to=encoding, group_size=96)))

    down, plain = layers["layers.1.mlp.down"], linears(load_folder(folder))["layers.1.mlp.down"]  # of 256 columns
    weight = dequantize(quantize_matrix(plain.weight, encoding, 96), torch.float32)
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert down.method.format_of(None) == f"{encoding.name.lower()} g96"
    assert relative_error(down(x, out_dtype=torch.float32), x.float() @ weight.T) < 1e-2


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("encoding", ALL)
def test_numbers_that_are_not_finite_are_named(folder: Path, encoding: Encoding, number: float) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(folder / "model.safetensors")
    tensors[name][3, 5] = number
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name}.*not finite"):
        load_folder(folder, torch.bfloat16, weights=WeightOptions(quantize_to=encoding))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["native", "torch"])
def test_head_and_embeddings_follow_when_asked(folder: Path, dtype: torch.dtype) -> None:
    options = WeightOptions(quantize_to=Encoding.INT4, includes_head=True)

    decoder = load_folder(folder, dtype, weights=options)

    assert {layer.method.format_of(None) for layer in (decoder.embed, decoder.head)} == {"int4 g32"}
    embedding = load_folder(folder).embed.weight
    expected = dequantize(quantize_matrix(embedding, Encoding.INT4), dtype)
    ids = torch.tensor([3, 127, 0])
    assert torch.equal(decoder.embed.look_up(ids).to(dtype), expected[ids])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["native", "torch"])
def test_conv1d_matrices_are_quantized_after_they_are_transposed(tmp_path: Path, dtype: torch.dtype) -> None:
    random_model(gpt2_config()).save_pretrained(tmp_path)
    decoder = load_folder(tmp_path, dtype, weights=WeightOptions(quantize_to=Encoding.INT8))
    plain = linears(load_folder(tmp_path))["layers.1.mlp.down"]
    x = torch.randn(3, plain.in_features).to(dtype)
    expected = x.float() @ plain.weight.T + plain.bias
    assert relative_error(linears(decoder)["layers.1.mlp.down"](x, out_dtype=torch.float32), expected) < 2e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["native", "torch"])
def test_one_unquantized_matrix_at_a_time_is_in_memory(
    folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0
    made = StoredTensor.__init__

    def counted(self: StoredTensor, *args: object, **kwargs: object) -> None:
        made(self, *args, **kwargs)
        read = self.read
        assert read is not None

        def watched(target: torch.dtype) -> torch.Tensor:
            nonlocal most
            tensor = read(target)
            alive.add(tensor)
            most = max(most, len(alive))
            return tensor

        object.__setattr__(self, "read", watched)

    monkeypatch.setattr(StoredTensor, "__init__", counted)
    options = WeightOptions(quantize_to=Encoding.INT4, includes_head=True)

    decoder = load_folder(folder, dtype, weights=options)

    assert most == 1
    matrices = sum(layer.in_features * layer.out_features for layer in linears(decoder).values())
    norms = 5 * 128 * 4
    assert decoder.weight_bytes() - norms < 1.15 * matrices * 4.5 / 8
    assert not alive
