"""How long a request may be: its prompt and its answer together, and its prediction."""

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineRequest


def check_length(request: EngineRequest, max_model_len: int) -> None:
    """Raises InvalidRequest for a prompt, an answer or a prediction that can never fit."""
    num_prompt, max_tokens = len(request.prompt_ids), request.sampling.max_tokens
    if num_prompt == 0:
        raise InvalidRequest("the prompt has no tokens; send at least one", param="prompt")
    if num_prompt + max_tokens > max_model_len:
        raise ContextLengthExceeded(
            f"the prompt has {num_prompt:,} tokens and max_tokens is {max_tokens:,}; together they may be at most "
            f"{max_model_len:,}; shorten the prompt or lower max_tokens",
            param="prompt" if num_prompt > max_model_len else "max_tokens",
        )
    if len(request.prediction_ids) > max_model_len:
        raise InvalidRequest(
            f"the prediction has {len(request.prediction_ids):,} tokens; an answer can have at most "
            f"{max_model_len:,}; shorten it",
            param="prediction",
        )
