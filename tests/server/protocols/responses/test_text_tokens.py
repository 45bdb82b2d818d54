"""TextTokens: the tokens of a message among those of thoughts and calls."""

import pytest

from server.generation.choice import ScoredToken
from server.protocols.responses.text_tokens import TextTokens
from server.text.tokenizer import Tokenizer
from tests.helpers.fake_client import engine_info

pytestmark = pytest.mark.fast


def _tokens(*texts: str) -> TextTokens:
    """One token a byte."""
    tokens = TextTokens(Tokenizer(engine_info().tokenizer))
    tokens.add([ScoredToken(byte, -1.0, [], 0) for text in texts for byte in text.encode()])
    return tokens


def _text(taken: list[ScoredToken]) -> str:
    return bytes(token.token_id for token in taken).decode()


def test_what_stands_before_the_text_is_forgotten_and_what_follows_stays() -> None:
    tokens = _tokens("</think>\n\n", "Grüße", " all")
    assert _text(tokens.take("Grüße", is_last=False)) == "Grüße"
    assert _text(tokens.take(" all", is_last=False)) == " all"


def test_a_text_that_comes_twice_is_the_first_or_the_last() -> None:
    assert len(_tokens("ab ab").take("ab", is_last=False)) == 2
    tokens = _tokens("ab ab!")
    tokens.take("ab", is_last=True)
    assert _text(tokens.take("!", is_last=False)) == "!"


def test_tokens_that_do_not_spell_the_text_are_all_its() -> None:
    assert _text(_tokens("abc").take("xyz", is_last=False)) == "abc"


def test_a_thought_or_call_is_passed_over() -> None:
    tokens = _tokens("Paris</think>", "Paris")
    tokens.pass_over("Paris</think>")
    assert _text(tokens.take("Paris", is_last=False)) == "Paris"
    tokens = _tokens('{"a": 1}\n')
    tokens.pass_over("{}")  # as the parser wrote it, and not the model
    assert tokens.take("x", is_last=False) == []
