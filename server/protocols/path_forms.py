"""PathForm: the API's format of errors and rate headers, by path prefix."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from starlette.responses import Response

from server.errors import ErrorReply, describe_error
from server.protocols.messages.errors import messages_error
from server.protocols.ollama.lines import ollama_error
from server.protocols.system_one_errors import INVALID_STATUS, system_one_error
from server.schemas.errors import AnthropicError, OllamaError, OpenAIError, SystemOneError


@dataclass(frozen=True, slots=True)
class PathForm:
    """Format of errors and rate headers for the paths with a prefix.

    error: makes the response from an error's reply and the request's id. error_object: type of the response's body.
    invalid_status: status of a request that is refused for what is in it.
    """

    prefix: str
    error: Callable[[ErrorReply, str], Response]
    error_object: type
    has_anthropic_headers: bool = False
    invalid_status: int = 400

    def status_of(self, status: int) -> int:
        """Return the API's status for one of the table of errors."""
        return self.invalid_status if status == 400 else status

    def reply(self, error: Exception, request_id: str) -> ErrorReply:
        """Return the reply for an exception."""
        reply = describe_error(error, request_id)
        return replace(reply, status=self.status_of(reply.status))


_FORMS = (
    PathForm("/v1/messages", messages_error, AnthropicError, has_anthropic_headers=True),
    PathForm("/v1/systemone", system_one_error, SystemOneError, invalid_status=INVALID_STATUS),
    PathForm("/api/", ollama_error, OllamaError),
)
_OTHERS = PathForm("/", lambda reply, _: reply.response(), OpenAIError)


def form_of(path: str) -> PathForm:
    """Return the format of errors and rate headers for a path, whether or not there is such a route."""
    return next((form for form in _FORMS if path.startswith(form.prefix)), _OTHERS)
