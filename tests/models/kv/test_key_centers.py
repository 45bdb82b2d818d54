"""Centers of quantized keys: channels with a large bias, which every key has, cost the others no precision."""

from pathlib import Path

import pytest
import torch

from models.architecture.kv_layout import CODE_DTYPES
from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.forward.key_centers import center_keys
from models.layers.attention.attention import Attention
from tests.helpers.checkpoints import cpu_compute, gpt2_config, llama_config, load_folder, qwen2_config, random_model
from tests.helpers.paged import PagedRun, PagedSequence
from tests.models.families.variants import llama4

TOKENS = list(range(3, 43))


def _centers(folder: Path) -> list[torch.Tensor | None]:
    decoder = load_folder(folder, torch.float32, ReferenceAttention(), kv_dtype=torch.int8)
    decoder.serve_context(64)
    return [module._key_center for module in decoder.modules() if isinstance(module, Attention)]


def _logits(folder: Path, kv_dtype: torch.dtype | None, *, has_centers: bool) -> torch.Tensor:
    decoder = load_folder(folder, torch.float32, ReferenceAttention(), kv_dtype=kv_dtype)
    if has_centers:
        decoder.serve_context(64)
    return PagedRun(decoder).step([(PagedSequence(), TOKENS)])[0]


@pytest.mark.parametrize("kv_dtype", CODE_DTYPES, ids=str)
def test_a_large_bias_of_keys_costs_no_precision(kv_dtype: torch.dtype, tmp_path: Path) -> None:
    model = random_model(qwen2_config(rope_parameters={"rope_type": "default", "rope_theta": 1e6}))
    with torch.no_grad():
        for layer in model.model.layers:  # type: ignore[union-attr]
            layer.self_attn.k_proj.bias.view(-1, 16)[:, [7, 14, 15]] = 100.0  # type: ignore[union-attr, operator]
    model.save_pretrained(tmp_path)
    exact = _logits(tmp_path, None, has_centers=True)

    without, ours = ((_logits(tmp_path, kv_dtype, has_centers=has) - exact).norm() for has in (False, True))

    assert ours < without / 3


def test_layers_without_a_bias_of_keys_have_no_center(tmp_path: Path) -> None:
    for name, config, expected in (("llama", llama_config(), False), ("gpt2", gpt2_config(), True)):
        random_model(config).save_pretrained(tmp_path / name)
        assert [center is not None for center in _centers(tmp_path / name)] == [expected] * 2, name


def test_the_center_of_keys_without_rotation_is_their_bias(tmp_path: Path) -> None:
    model = random_model(gpt2_config())
    model.save_pretrained(tmp_path)
    bias = model.transformer.h[1].attn.c_attn.bias[64:128]  # type: ignore[union-attr, index]

    torch.testing.assert_close(_centers(tmp_path)[1], bias.detach().view(4, 16))


def _int4(folder: Path) -> Decoder:
    return load_folder(folder, torch.float32, ReferenceAttention(), kv_dtype=torch.int4)


def _rotated(decoder: Decoder, kv_dtype: torch.dtype = torch.int4) -> list[bool]:
    center_keys(decoder, cpu_compute(torch.float32, ReferenceAttention(), kv_dtype=kv_dtype), 64)
    return [module.rotated_center is not None for module in decoder.modules() if isinstance(module, Attention)]


def test_means_of_random_tokens_cost_less_than_constants(tmp_path: Path) -> None:
    model = random_model(qwen2_config(rope_parameters={"rope_type": "default", "rope_theta": 1e4}))
    with torch.no_grad():
        for layer in model.model.layers:  # type: ignore[union-attr]
            layer.self_attn.k_proj.bias.view(-1, 16)[:, [0, 3, 9]] = 20.0  # type: ignore[union-attr, operator]
    model.save_pretrained(tmp_path)
    exact, constant = (_logits(tmp_path, each, has_centers=True) for each in (None, torch.int4))
    decoder = _int4(tmp_path)
    assert _rotated(decoder) == [True] * 2

    rotated = PagedRun(decoder).step([(PagedSequence(), TOKENS)])[0]

    assert (rotated - exact).norm() < (constant - exact).norm() / 2


def test_only_rotated_keys_in_4_bits_have_rotated_centers(tmp_path: Path) -> None:
    for name, config in (("llama", llama_config()), ("llama4", llama4()), ("gpt2", gpt2_config())):
        random_model(config).save_pretrained(tmp_path / name)
    assert _rotated(_int4(tmp_path / "llama"), torch.int8) == [False] * 2
    decoder = _int4(tmp_path / "llama")
    assert _rotated(decoder) == [True] * 2
    assert [each.shape for each in decoder.rotated_centers] == [(2, 2, 16)] * 2
    assert not any(_rotated(_int4(tmp_path / "gpt2")))  # positions are learned
    assert not any(_rotated(_int4(tmp_path / "llama4")))  # keys are normed after rotation, or not rotated
    decoder.serve_context(32)
    assert not decoder.rotated_centers  # of other frequencies
