"""Fields of requests to other servers' pooling models that are not honored."""

from collections.abc import Callable
from typing import Any

from server.schemas.parameters import ParameterTable


def _is(*neutral: object) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(other) and value == other for other in neutral)


def _never(_value: Any) -> bool:
    return False


POOLING_PARAMETERS = ParameterTable(
    unsupported={
        "chat_template": _never,  # a request's own template is code that we do not run
        "embed_dtype": _is("float32"),
        "embedding_types": _is(["float"]),  # Cohere's
        "endianness": _is("native", "little"),
        "images": _never,
        "inputs": _never,  # Cohere's, of texts and images
        "instruction": _never,
        "items": _never,
        "late_chunking": _is(False),  # Jina's
        "max_chunks_per_doc": _never,  # Cohere's, of its first version
        "media_io_kwargs": _never,
        "mm_processor_kwargs": _never,
        "padding": _is("do_not_pad"),
        "rank_fields": _never,
        "stream": _is(False),
        "tools": _never,
    },
    ignored={"cache_salt": _never, "metadata": _is({}), "request_id": _never, "user": _never},
    types={"user": (str, "a string")},
)
