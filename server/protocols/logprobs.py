"""Formats of log probabilities in OpenAI's APIs and in vLLM's extensions."""

from collections.abc import Sequence

from engine.protocol import TokenLogprobs
from server.generation.choice import ScoredToken
from server.schemas.answers import (
    ChatLogprob,
    ChatLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TextLogprobs,
    TopLogprob,
)
from server.text.tokenizer import Tokenizer


class LogprobsFormat:
    """Formats the log probabilities of an answer for OpenAI's APIs, in which tokens have names."""

    def __init__(self, tokenizer: Tokenizer, *, as_token_ids: bool = False) -> None:
        """as_token_ids: whether tokens are named like token_id:5, so that no two tokens share a name."""
        self._tokenizer = tokenizer
        self._as_token_ids = as_token_ids

    def name(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._as_token_ids else token_name(token_id, self._tokenizer)

    def of_chat(self, tokens: list[ScoredToken]) -> ChatLogprobs:
        """Return the logprobs of a chat completion: one object per token, with its most likely alternatives."""
        content = []
        for token in tokens:
            assert token.logprob is not None  # only a prompt's first token has none, and chats never show it
            top = [TopLogprob(*self._named(token_id, logprob)) for token_id, logprob in token.top or []]
            content.append(ChatLogprob(*self._named(token.token_id, token.logprob), top))
        return ChatLogprobs(content)

    def _named(self, token_id: int, logprob: float) -> tuple[str, float, list[int]]:
        return self.name(token_id), logprob, list(self._tokenizer.token_bytes(token_id))

    def of_text(self, tokens: Sequence[ScoredToken]) -> TextLogprobs:
        """Return a text completion's logprobs: parallel lists, with a map of the likeliest tokens for each token."""
        return TextLogprobs(
            tokens=[self.name(token.token_id) for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[self._top_by_name(token) for token in tokens],
            text_offset=[token.text_offset for token in tokens],
        )

    def _top_by_name(self, token: ScoredToken) -> dict[str, float] | None:
        if token.logprob is None or token.top is None:
            return None
        by_name: dict[str, float] = {}
        for token_id, logprob in [*token.top, (token.token_id, token.logprob)]:
            name = self.name(token_id)
            # Of two tokens with the same text, the likelier stays.
            by_name[name] = max(logprob, by_name.get(name, logprob))
        return by_name


def prompt_logprobs(scores: list[TokenLogprobs | None], num_top: int, tokenizer: Tokenizer) -> PromptLogprobs:
    """Return a prompt's logprobs in vLLM's format: for each token, a map of it and the best `num_top` tokens."""
    return [None if score is None else _candidates(score, num_top, tokenizer) for score in scores]


def _candidates(score: TokenLogprobs, num_top: int, tokenizer: Tokenizer) -> dict[int, PromptLogprob]:
    assert score.rank is not None
    best = {
        token_id: PromptLogprob(logprob, rank, token_name(token_id, tokenizer))
        for rank, (token_id, logprob) in enumerate(score.top[:num_top], start=1)
    }
    own = PromptLogprob(score.logprob, score.rank, token_name(score.token_id, tokenizer))
    return {score.token_id: own, **best}


def token_name(token_id: int, tokenizer: Tokenizer) -> str:
    r"""Return a token's text. Bytes that are incomplete characters have OpenAI's spelling, such as bytes:\xe2\x80."""
    data = tokenizer.token_bytes(token_id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
