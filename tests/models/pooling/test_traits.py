"""PoolingTraits, and the schemes of GGUF files: unsupported poolings matter only to models that pool."""

from types import SimpleNamespace
from typing import Any

import pytest

from models.architecture.pooling import TokenPooling
from models.config.hf_config import HFConfig
from models.errors import UnsupportedModelError
from models.pooling.traits import PoolingTraits, gguf_scheme, pooling_traits

RERANKER = {"general.architecture": "qwen3", "qwen3.pooling_type": 4}


def traits(*, has_head: bool, metadata: dict[str, Any]) -> PoolingTraits:
    spec: Any = SimpleNamespace(has_head=has_head, score_head=None, is_encoder=False, hidden_size=8, layers=())
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


def scheme_of(kind: object) -> object:
    return gguf_scheme({"general.architecture": "bert", "bert.pooling_type": kind}, "m.gguf")


@pytest.mark.parametrize(("kind", "pooling"), [(1, TokenPooling.MEAN), (2, TokenPooling.CLS), (3, TokenPooling.LAST)])
def test_a_gguf_files_pooling_normalizes_vectors(kind: int, pooling: TokenPooling) -> None:
    scheme = gguf_scheme({"general.architecture": "bert", "bert.pooling_type": kind}, "m.gguf")
    assert scheme is not None
    assert scheme.poolings == (pooling,)
    assert scheme.normalizes


@pytest.mark.parametrize("kind", [None, 0])
def test_a_gguf_file_without_pooling_has_no_scheme(kind: object) -> None:
    assert scheme_of(kind) is None


@pytest.mark.parametrize(("kind", "reason"), [(4, "is a reranker"), (9, "supported are 1")])
def test_other_poolings_of_gguf_files_are_refused(kind: object, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        scheme_of(kind)
