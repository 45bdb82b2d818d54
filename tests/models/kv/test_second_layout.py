"""The decoder's parity tests over a second layout of the KV cache, which only its back end knows."""

from collections.abc import Callable

import pytest
import torch

from models.kernels.ops import Operations
from models.kv.layer import LayerKV
from tests.helpers.mixed_kv import MixedKV
from tests.models.families.test_parity import (  # noqa: F401 (collected here, with the fixtures of this module)
    Column,
    Pair,
    Reference,
    reference_of,
    run_in_chunks,
    test_bf16_errors_are_within_twice_those_of_transformers,
    test_fp32_logits_after_a_prefix_hit,
    test_fp32_logits_equal_transformers,
    test_fp32_logits_of_output_rows_and_of_what_follows_them,
    test_fp32_logits_of_prefill_and_decode_in_one_batch,
)

VARIANTS = ["llama-gqa", "qwen2-upper-window", "gpt-oss", "deepseek-v2", "deepseek-v3.2", "qwen3-next"]


@pytest.fixture(scope="module")
def column() -> Column:
    return Column(MixedKV(), Operations(), tolerance=0.03)  # values are rounded to bf16


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, reference_of: Callable[[str], Reference], column: Column) -> Pair:  # noqa: F811
    return Pair(reference_of(request.param), column)


def test_fp32_logits_do_not_depend_on_chunks(pair: Pair) -> None:
    pair.check(run_in_chunks(pair.run(), pair.prompts, chunk=3), pair.truths)


def test_keys_and_values_have_dtypes_of_their_own(pair: Pair) -> None:
    caches = [cache for cache in pair.run().kv if isinstance(cache, LayerKV)]

    assert {cache.parts["k"].dtype for cache in caches} == {torch.float32}
    assert {cache.parts["v"].dtype for cache in caches if "v" in cache.parts} <= {torch.bfloat16}
