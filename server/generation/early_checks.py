"""What is checked of a request while its model is not loaded, so that none is loaded for a request that is refused.

It needs neither the engine nor the model's tokenizer: how fields go together, which are unknown, and the server's own
limits. All of it is checked again with the rest once the model is there. Each raises InvalidRequest.
"""

from server.chat.request import ChatRequest
from server.generation.beams.fields import beam_options
from server.generation.params.checks import check_fields
from server.generation.params.params.chat import check_chat_fields
from server.schemas.completions import CompletionRequest
from server.schemas.infill import InfillRequest
from server.schemas.sampling import check_scores
from server.served.model import ServedModel


def check_chat(request: ChatRequest, model: ServedModel) -> None:
    options, max_logprobs = request.options, model.config.max_logprobs
    with request.paths.in_errors():
        check_chat_fields(request, model)
        beam_options(options)
        check_scores(options, options.num_logprobs(max_logprobs), max_logprobs)


def check_completion(body: CompletionRequest, model: ServedModel) -> None:
    max_logprobs = model.config.max_logprobs
    check_fields(body, model)
    body.check(max_logprobs)
    check_scores(body, body.logprobs, max_logprobs)
    beam_options(body)


def check_infill(body: InfillRequest, model: ServedModel) -> None:
    check_fields(body, model)
    body.check()
