"""gguf_scheme: how a GGUF file's states become a vector."""

import pytest

from models.architecture.pooling import TokenPooling
from models.errors import UnsupportedModelError
from models.pooling.gguf import gguf_scheme


def scheme_of(kind: object) -> object:
    return gguf_scheme({"general.architecture": "bert", "bert.pooling_type": kind}, "m.gguf")


@pytest.mark.parametrize(("kind", "pooling"), [(1, TokenPooling.MEAN), (2, TokenPooling.CLS), (3, TokenPooling.LAST)])
def test_stated_pooling_with_vectors_of_length_1(kind: int, pooling: TokenPooling) -> None:
    scheme = gguf_scheme({"general.architecture": "bert", "bert.pooling_type": kind}, "m.gguf")
    assert scheme is not None
    assert scheme.poolings == (pooling,)
    assert scheme.normalizes


@pytest.mark.parametrize("kind", [None, 0])
def test_no_pooling(kind: object) -> None:
    assert scheme_of(kind) is None


@pytest.mark.parametrize(("kind", "reason"), [(4, "is a reranker"), (9, "supported are 1")])
def test_what_is_not_supported(kind: object, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        scheme_of(kind)
