"""gguf_scheme: the PoolingScheme that a GGUF file's metadata state."""

from collections.abc import Mapping
from typing import Any

from models.architecture.pooling import TokenPooling
from models.config.hf_config import quoted
from models.errors import UnsupportedModelError
from models.pooling.scheme import PoolingScheme

_NONE, _RANK = 0, 4
_POOLINGS = {1: TokenPooling.MEAN, 2: TokenPooling.CLS, 3: TokenPooling.LAST}


def gguf_scheme(metadata: Mapping[str, Any], source: str) -> PoolingScheme | None:
    """By ARCHITECTURE.pooling_type, or None if the file has none. Vectors have length 1, which GGUF does not state, as
    in llama.cpp. Raises UnsupportedModelError for files of rerankers."""
    key = f"{metadata.get('general.architecture')}.pooling_type"
    kind = metadata.get(key)
    if kind is None or kind == _NONE:
        return None
    if kind == _RANK:
        raise UnsupportedModelError(f"{source} is a reranker ({key} is {_RANK}); serve the model's safetensors")
    if kind not in _POOLINGS:
        raise UnsupportedModelError(
            f"{source}: {key} is {quoted(kind)}; supported are {', '.join(f'{n} ({_POOLINGS[n]})' for n in _POOLINGS)}"
        )
    return PoolingScheme((_POOLINGS[kind],), normalizes=True)
