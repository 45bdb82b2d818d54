"""PathForm: the form of errors and rate headers of a protocol, by the prefix of its paths."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import Response

from server.errors import ErrorReply
from server.protocols.messages.errors import messages_error
from server.protocols.ollama.lines import ollama_error
from server.schemas.errors import AnthropicError, OllamaError, OpenAIError


@dataclass(frozen=True, slots=True)
class PathForm:
    """Form of errors and headers of the paths with a prefix.

    error: makes the response of an error's reply and the request's id. error_object: the type of its body.
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
    """Return the form of errors and headers for a path, which need not be a route's."""
    return next((form for form in _FORMS if path.startswith(form.prefix)), _OTHERS)
