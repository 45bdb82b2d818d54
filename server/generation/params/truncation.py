"""Truncation: cuts prompts to truncate_prompt_tokens, the number of tokens that the client sets."""

from dataclasses import dataclass

from engine.errors import InvalidRequest
from server.generation.choice import Prompt
from server.schemas.sampling import GenerationRequest
from server.text.detokenizer import decode
from server.text.tokenizer import Tokenizer

_ALL_THAT_FITS = -1


@dataclass(frozen=True, slots=True)
class Truncation:
    """Maximum length of a prompt in tokens, and which end of a longer prompt is kept."""

    max_tokens: int
    keeps_end: bool

    def apply(self, prompt: Prompt, tokenizer: Tokenizer, *, echo: bool = False) -> Prompt:
        """Return the prompt with at most `max_tokens` tokens. With `echo`, its text is decoded from the tokens kept.

        A BOS that the tokenizer adds stays the first token, and counts: models are trained with a BOS there, and some
        produce nonsense without one.
        """
        ids = prompt.ids
        if len(ids) <= self.max_tokens:
            return prompt
        if not self.keeps_end:
            ids = ids[: self.max_tokens]
        elif tokenizer.adds_bos and ids[0] == tokenizer.bos_token_id:
            num_others = self.max_tokens - 1
            ids = [ids[0], *(ids[-num_others:] if num_others else [])]
        else:
            ids = ids[-self.max_tokens :]
        return Prompt(ids, decode(tokenizer, ids) if echo else "")


def truncation_of(body: GenerationRequest, max_model_len: int, *, num_reserved: int) -> Truncation | None:
    """Return the truncation that the request asks for; None if it asks for none, and longer prompts are refused.

    num_reserved: tokens of the context left for the answer if truncate_prompt_tokens is -1. Raises InvalidRequest
    if it is 0, or missing while truncation_side is set.
    """
    if body.truncate_prompt_tokens is None:
        if body.truncation_side is not None:
            raise InvalidRequest("truncation_side needs truncate_prompt_tokens", param="truncation_side")
        return None
    max_tokens = body.truncate_prompt_tokens
    if max_tokens == 0:
        raise InvalidRequest(
            "truncate_prompt_tokens is 0; it must be at least 1, or -1 for all that fit", param="truncate_prompt_tokens"
        )
    if max_tokens == _ALL_THAT_FITS:
        max_tokens = max(1, max_model_len - num_reserved)
    return Truncation(max_tokens, body.truncation_side != "right")


def chat_truncation(body: GenerationRequest, max_model_len: int, *, num_reserved: int) -> Truncation | None:
    """Return the truncation that a chat request asks for, if any. num_reserved: tokens left for the answer if
    truncate_prompt_tokens is -1. Raises InvalidRequest, also if the truncation would cut the chat's end."""
    truncation = truncation_of(body, max_model_len, num_reserved=num_reserved)
    if truncation is not None and not truncation.keeps_end:
        raise InvalidRequest(
            "truncation_side is 'right', which would cut off the end of the chat, where the answer begins; leave it "
            "out, or make it 'left'",
            param="truncation_side",
        )
    return truncation
