"""Errors of attention's outputs with codes: bounds of the figures in docs/kv-cache.md, for random numbers."""

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.attention.kv_codes import quantize_heads
from models.attention.reference import ReferenceAttention
from models.batch import KVGroupBatch, forward_batch
from tests.models.kernels.paged_batches import full_kv

SIZE = 128  # tokens
SPECS = {
    "latent": AttentionSpec(8, 1, 576, 576**-0.5, values_from=64),
    "plain": AttentionSpec(8, 2, 128, 128**-0.5),
}
# Relative errors, the lowest and highest that are expected.
ERRORS = {torch.bfloat16: (0.001, 0.004), torch.int8: (0.005, 0.015), torch.int4: (0.07, 0.15)}


def _attended(spec: AttentionSpec, kv_dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(SIZE, heads, size, generator=generator)
        for heads, size in (
            (spec.num_heads, spec.head_dim),
            (spec.num_kv_heads, spec.head_dim),
            (spec.num_kv_heads, spec.value_dim),
        )
    )
    backend, tables = ReferenceAttention(), torch.arange(SIZE // 16, dtype=torch.int32)[None]
    kv = full_kv(backend, spec, SIZE // 16, 16, kv_dtype=kv_dtype)
    batch = forward_batch([0] * SIZE, [SIZE], [tables], block_size=16, device=torch.device("cpu"))
    group = KVGroupBatch(torch.arange(SIZE), tables, 16)
    backend.write(kv, k, None if spec.values_from is not None else v, group)
    return backend.forward(q, kv, batch, group, spec)


@pytest.mark.parametrize("kv_dtype", ERRORS, ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_outputs_of_attention_err_as_the_documents_say(name: str, kv_dtype: torch.dtype) -> None:
    exact = _attended(SPECS[name], torch.float32)
    error = (_attended(SPECS[name], kv_dtype) - exact).norm() / exact.norm()
    lowest, highest = ERRORS[kv_dtype]
    assert lowest < error < highest, float(error)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_a_key_in_8_bit_floats_has_the_scale_of_four_that_errs_least(dtype: torch.dtype) -> None:
    keys = torch.randn(500, 2, 64, generator=torch.Generator().manual_seed(0)) ** 3
    largest = torch.finfo(dtype).max
    errors = []
    for quarters in (7, 6, 5, 4):
        scales = (keys.abs().amax(-1, keepdim=True) / (largest * quarters / 7)).bfloat16().float()
        codes = (keys / scales).clamp(-largest, largest).to(dtype).float()
        errors.append((codes * scales - keys).double().square().sum(-1))

    coded = quantize_heads(keys, dtype, is_key=True)

    error = (coded.numbers() * coded.scales - keys).double().square().sum(-1)
    least = torch.stack(errors).amin(0)
    assert (error <= 1.03 * least).all()  # a scale's rounding to bf16 is not weighed
    assert error.mean() < 0.9 * errors[0].mean()
    assert torch.equal(quantize_heads(keys, dtype).numbers().abs().amax(-1), torch.full((500, 2), largest))  # values
