"""Ternary BitNet checkpoints compute what transformers' BitLinear layers do, with weights in about 2 bits."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

from models.decoder import Decoder
from tests.helpers.checkpoints import load_folder, random_model
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.quantized import change_quantization, change_tensors
from tests.models.families.bitnet_variants import BITNET_VARIANTS

PROMPT = torch.randint(128, (12,), generator=torch.Generator().manual_seed(3)).tolist()
KINDS: dict[str, dict[str, object]] = {
    "autobitlinear": {"linear_class": "autobitlinear", "quantization_mode": "offline"},
    "bitlinear": {"modules_to_not_convert": None},
    "online": {"linear_class": "autobitlinear", "quantization_mode": "online"},
}


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):  # transformers compiles its functions
        yield


def bit_linear(layer: nn.Linear, kind: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """transformers' layer in place of `layer`, and the tensors that its checkpoint has."""
    shape, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
    mean = layer.weight.abs().mean()
    numbers = (layer.weight / mean).round().clamp(-1, 1)
    scale = (1 / mean if kind == "bitlinear" else mean).bfloat16().view(1)
    packed = pack_weights(numbers.clone())
    tensors = {} if kind == "online" else {"weight": packed, "weight_scale": scale}
    if kind == "bitlinear":
        made: nn.Module = BitLinear(*shape, has_bias, dtype=torch.float32)
        made.weight, made.weight_scale = packed, scale.float()
    else:
        made = AutoBitLinear(*shape, has_bias, online_quant=kind == "online")
        made.weight.data.copy_(layer.weight if kind == "online" else numbers)
        if kind != "online":
            made.weight_scale = scale.float()
    if has_bias:
        made.bias = layer.bias
    return made, tensors


@torch.no_grad()
def bit_model(variant: str, kind: str, folder: Path) -> PreTrainedModel:
    """A model of transformers with such layers, saved as their checkpoints are."""
    model = random_model(BITNET_VARIANTS[variant]())
    model.save_pretrained(folder)
    changes: dict[str, torch.Tensor | None] = {}
    for name, layer in [each for each in model.named_modules() if each[0].endswith("_proj")]:
        made, tensors = bit_linear(layer, kind)
        model.set_submodule(name, made)
        changes |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    change_tensors(folder, changes)
    change_quantization(folder, quant_method="bitnet", **KINDS[kind])
    return model


def logits_of(decoder: Decoder) -> torch.Tensor:
    return PagedRun(decoder).step([(PagedSequence(), PROMPT)])[0]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["torch", "native"])
@torch.no_grad()
def test_layers_are_transformers(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    """Compare with weights as torch takes them and, in bf16, as kernels do; rows and results are in fp32."""
    wanted = bit_model("bitnet-tied-mha-biases", kind, tmp_path).model.layers[1].mlp
    layer = load_folder(tmp_path, dtype).layers[1].mlp.gate_up
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    x[3] = 0.0
    x[4] *= 1e-6  # below what a row's largest number counts as

    found = layer(x, out_dtype=torch.float32)

    expected = torch.cat((wanted.gate_proj(x), wanted.up_proj(x)), dim=-1)
    assert not found[3].any()
    assert max(error(found[row], expected[row]) for row in (0, 1, 2, 4)) < 2e-6
    assert layer.method.name == ("dequantizing" if dtype is torch.float32 else "native")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_are_transformers(tmp_path: Path, kind: str) -> None:
    """Where sums differ in the last bit, a number may be rounded to the next integer, so rows may differ by that."""
    expected = bit_model("bitnet", kind, tmp_path)(torch.tensor([PROMPT])).logits[0]

    found = logits_of(load_folder(tmp_path))

    is_equal = (found - expected).abs().amax(-1) < 1e-4
    assert int(is_equal.sum()) >= len(PROMPT) // 2
    assert error(found, expected) < 3e-3


@torch.no_grad()
def test_rows_that_are_not_rounded_would_show(tmp_path: Path) -> None:
    model = bit_model("bitnet", "autobitlinear", tmp_path)
    expected = model(torch.tensor([PROMPT])).logits[0]
    plain = copy.deepcopy(model)
    for layer in plain.modules():
        if isinstance(layer, AutoBitLinear):
            layer.forward = lambda x, layer=layer: (
                nn.functional.linear(x, layer.weight, layer.bias) * layer.weight_scale
            )

    assert error(plain(torch.tensor([PROMPT])).logits[0], expected) > 6e-3


@pytest.mark.parametrize("kind", ["autobitlinear", "online"])
def test_weights_take_about_two_bits(tmp_path: Path, kind: str) -> None:
    bit_model("bitnet", kind, tmp_path)

    decoder = load_folder(tmp_path, torch.bfloat16)

    mlp = decoder.layers[0].mlp
    num_bytes = sum(buffer.nbytes for layer in mlp.linears for buffer in layer.buffers())
    assert mlp.down.method.format_of(None) == mlp.gate_up.method.format_of("up") == "ternary a8"
    assert 2.0 <= 8 * num_bytes / (3 * 64 * 96) <= 2.6  # of 64 columns; 2.1 bits of 512 and more
