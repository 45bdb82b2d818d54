"""pooling_traits: a way to pool that is not supported matters to models that pool."""

from types import SimpleNamespace
from typing import Any

import pytest

from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.pooling.traits import PoolingTraits, pooling_traits

RERANKER = {"general.architecture": "qwen3", "qwen3.pooling_type": 4}


def traits(*, has_head: bool, metadata: dict[str, Any]) -> PoolingTraits:
    spec: Any = SimpleNamespace(has_head=has_head, score_head=None, is_encoder=False, hidden_size=8)
    return pooling_traits(spec, HFConfig({}, "m.gguf"), None, metadata)


def test_a_gguf_file_that_generates_by_default_tells_why_it_cannot_pool() -> None:
    found = traits(has_head=True, metadata=RERANKER)
    assert (found.pools_by_default, found.can_generate, found.scheme) == (False, True, None)
    assert found.refusal is not None
    assert "m.gguf is a reranker" in found.refusal


def test_a_gguf_file_that_pools_by_default_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="is a reranker"):
        traits(has_head=False, metadata=RERANKER)


def test_a_supported_way_is_not_refused() -> None:
    found = traits(has_head=True, metadata={**RERANKER, "qwen3.pooling_type": 3})
    assert found.scheme is not None
    assert found.refusal is None
