"""Ollama's requests for embeddings as OpenAI's."""

from typing import Any

from server.schemas.base import validate
from server.schemas.ollama import OllamaEmbeddingsRequest, OllamaEmbedRequest
from server.schemas.pooling import EmbeddingRequest


def translate_embed(body: OllamaEmbedRequest, model: str) -> EmbeddingRequest:
    """Translate a request with inputs. Inputs that are too long are cut, unless the request says not to. Vectors have
    length 1, as Ollama's.

    model: the served name. Raises InvalidRequest.
    """
    fields: dict[str, Any] = {"model": model, "input": body.input, "normalize": True, "dimensions": body.dimensions}
    if body.truncate is not False:
        fields["truncate_prompt_tokens"] = -1
    return validate(EmbeddingRequest, fields)


def translate_embeddings(body: OllamaEmbeddingsRequest, model: str) -> EmbeddingRequest:
    """Translate a request to the older endpoint, whose vectors are as the model makes them. Raises InvalidRequest."""
    return validate(EmbeddingRequest, {"model": model, "input": body.prompt or "", "truncate_prompt_tokens": -1})


def unhonored_embed_fields(body: OllamaEmbedRequest | OllamaEmbeddingsRequest, max_tokens: int) -> dict[str, Any]:
    """Return the fields that are not translated, by their paths, for `ignored_parameters`.

    A num_ctx that equals the model's limit changes nothing.
    """
    options = {
        f"options.{name}": value
        for name, value in (body.options or {}).items()
        if not (name == "num_ctx" and value == max_tokens)
    }
    return {**body.extra, "keep_alive": body.keep_alive, **options}
