"""PathForm: the API's format of errors and rate headers, by path prefix."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import Response

from server.errors import ErrorReply
from server.protocols.messages.errors import messages_error
from server.protocols.ollama.lines import ollama_error
from server.schemas.errors import AnthropicError, OllamaError, OpenAIError


@dataclass(frozen=True, slots=True)
class PathForm:
    """Format of errors and rate headers for the paths with a prefix.

    error: makes the response from an error's reply and the request's id. error_object: type of the response's body.
    """

    prefix: str
    error: Callable[[ErrorReply, str], Response]
    error_object: type
    has_anthropic_headers: bool = False


_FORMS = (
    PathForm("/v1/messages", messages_error, AnthropicError, has_anthropic_headers=True),
    PathForm("/api/", ollama_error, OllamaError),
)
_OTHERS = PathForm("/", lambda reply, _: reply.response(), OpenAIError)


def form_of(path: str) -> PathForm:
    """Return the format of errors and rate headers for a path, whether or not there is such a route."""
    return next((form for form in _FORMS if path.startswith(form.prefix)), _OTHERS)
