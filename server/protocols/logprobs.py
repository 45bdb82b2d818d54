"""Scored tokens in the two formats in which OpenAI's APIs report log probabilities."""

from server.generation.choice import ScoredToken
from server.schemas.answers import ChatLogprob, ChatLogprobs, TextLogprobs, TopLogprob
from server.text.tokenizer import Tokenizer


def chat_logprobs(tokens: list[ScoredToken], tokenizer: Tokenizer) -> ChatLogprobs:
    """Chat's format: one object a token, with the best tokens as a list."""
    content = []
    for token in tokens:
        assert token.logprob is not None  # that is a prompt's first token, which chat never shows
        top = [TopLogprob(*_named(token_id, tokenizer, logprob)) for token_id, logprob in token.top or []]
        content.append(ChatLogprob(*_named(token.token_id, tokenizer, token.logprob), top))
    return ChatLogprobs(content)


def _named(token_id: int, tokenizer: Tokenizer, logprob: float) -> tuple[str, float, list[int]]:
    return token_name(token_id, tokenizer), logprob, list(tokenizer.token_bytes(token_id))


def text_logprobs(tokens: list[ScoredToken], tokenizer: Tokenizer) -> TextLogprobs:
    """The text completions' format: parallel lists, with the best tokens and the token itself as a map."""
    return TextLogprobs(
        tokens=[token_name(token.token_id, tokenizer) for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        top_logprobs=[_top_by_name(token, tokenizer) for token in tokens],
        text_offset=[token.text_offset for token in tokens],
    )


def _top_by_name(token: ScoredToken, tokenizer: Tokenizer) -> dict[str, float] | None:
    if token.logprob is None or token.top is None:
        return None
    by_name: dict[str, float] = {}
    for token_id, logprob in [*token.top, (token.token_id, token.logprob)]:
        by_name.setdefault(token_name(token_id, tokenizer), logprob)  # of two tokens with one text the likelier stays
    return by_name


def token_name(token_id: int, tokenizer: Tokenizer) -> str:
    r"""A token's text; for bytes that are no whole characters OpenAI's spelling, as in bytes:\xe2\x80."""
    data = tokenizer.token_bytes(token_id)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
