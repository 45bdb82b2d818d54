"""Reservation: tokens of the caller's rate limits that are reserved for a generation until its usage is known."""

from collections.abc import Sequence

from engine.protocol import FinishReason
from server.generation.accounting.metering import ChoiceMeter
from server.generation.params.generation_params import GenerationParams
from server.keys.account import OPEN_ENDED_TOKENS, TokenReservation
from server.keys.caller import current_caller


class Reservation:
    """A reservation of the current caller's tokens, made before a generation is submitted, and settled exactly once."""

    def __init__(self, params: GenerationParams, max_model_len: int) -> None:
        """Reserve tokens for the prompts and the longest possible answers. Raises RateLimited if the key's limits do
        not allow that many."""
        self._account = account = current_caller().account
        self._tokens: TokenReservation | None = None
        self._num_prompt_tokens = 0
        if account is None:
            return
        lengths = [len(prompt.ids) for prompt in params.prompts]
        self._num_prompt_tokens = sum(lengths)
        max_tokens = params.sampling.max_tokens
        is_open_ended = max_tokens >= max_model_len - max(lengths)  # the whole rest of the context, requested or not
        if is_open_ended:
            max_tokens = min(max_tokens, OPEN_ENDED_TOKENS)
        num_choices = len(params.prompts) * params.n
        self._tokens = account.reserve(self._num_prompt_tokens, num_choices * max_tokens, is_open_ended=is_open_ended)

    def settle(self, meters: Sequence[ChoiceMeter]) -> None:
        """Replace the reservation by the tokens used. meters: one for each choice; empty if none was submitted.

        An aborted request counts its whole prompt, since it is not known how much was computed; otherwise clients that
        disconnect before the first token would pay nothing.
        """
        if self._account is not None and self._tokens is not None:
            used = sum(meter.counted_prompt_tokens + meter.num_tokens for meter in meters)
            if any(meter.reason is FinishReason.ABORT for meter in meters):
                used = max(used, self._num_prompt_tokens)
            self._account.settle(self._tokens, used)
