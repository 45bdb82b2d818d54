"""RequestLimits: limits of all inputs of one request to a pooling model together."""

from dataclasses import dataclass

from engine.errors import InvalidRequest
from engine.protocol.pooling import MAX_TOKEN_VALUES

MAX_TOKENS = 1 << 20  # of all inputs of a request together


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """values_per_token: numbers in the answer for each token of the inputs; 0 if they do not depend on tokens."""

    values_per_token: int = 0

    def check(self, num_tokens: int, num_inputs: int, name: str) -> None:
        """Raise InvalidRequest if the inputs so far have too many tokens. name: of all inputs in the request."""
        inputs = f"the first {num_inputs} inputs have" if num_inputs > 1 else f"{name} has"
        if num_tokens > MAX_TOKENS:
            raise InvalidRequest(
                f"{inputs} {num_tokens} tokens; those of a request may have {MAX_TOKENS} together; send several "
                "requests",
                param=name,
            )
        width = self.values_per_token
        if num_tokens * width > MAX_TOKEN_VALUES:
            raise InvalidRequest(
                f"{inputs} {num_tokens} tokens, for each of which token_embed returns {width} numbers; a request may "
                f"have {MAX_TOKEN_VALUES} numbers, which are {MAX_TOKEN_VALUES // width} tokens; send several "
                "requests, cut inputs with truncate_prompt_tokens, or use the task embed",
                param=name,
            )
