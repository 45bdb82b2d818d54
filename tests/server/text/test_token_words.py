"""Token sequences of bad words, and the tokens at which a repetition ends."""

import pytest

from engine.errors import InvalidRequest
from server.text.token_words import TokenWords
from server.text.tokenizer import Tokenizer
from tests.helpers.tokenizers import byte_level_info, sentencepiece_info


@pytest.fixture(params=[byte_level_info, sentencepiece_info], ids=["byte level", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(request.param())


def _text(tokenizer: Tokenizer, ids: tuple[int, ...]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


@pytest.mark.parametrize("word", ["the", "  the", "hello.", "é", "a b"])
def test_a_word_is_spelled_without_and_with_a_space_in_front(tokenizer: Tokenizer, word: str) -> None:
    spelled = [_text(tokenizer, ids) for ids in TokenWords(tokenizer).spellings(word)]
    assert spelled == [word.strip().encode(), b" " + word.strip().encode()]


def test_spellings_are_those_inside_a_text(tokenizer: Tokenizer) -> None:
    words = TokenWords(tokenizer)
    inside = tokenizer.encode("a. hello", add_special_tokens=False)
    assert any(tuple(inside[-len(ids) :]) == ids for ids in words.spellings("hello"))


@pytest.mark.parametrize("word", ["\n", " ", "\nthe"])
def test_words_that_begin_with_blanks_are_spelled(tokenizer: Tokenizer, word: str) -> None:
    spelled = [_text(tokenizer, ids) for ids in TokenWords(tokenizer).spellings(word)]
    assert word.encode() in spelled


def test_the_text_of_a_control_token_is_that_token() -> None:
    assert TokenWords(Tokenizer(byte_level_info())).spellings("<|im_end|>")[0] == (3,)


def _contained(tokenizer: Tokenizer, mask: bytes) -> set[int]:
    return {i for i in range(tokenizer.vocab_size) if i // 8 < len(mask) and mask[i // 8] >> i % 8 & 1}


def test_breakers_are_all_tokens_that_contain_one_of_them(tokenizer: Tokenizer) -> None:
    mask, sequences = TokenWords(tokenizer).breakers(["e", "."])
    containing = {i for i in range(tokenizer.vocab_size) if set(b"e.") & set(tokenizer.token_bytes(i))}
    assert _contained(tokenizer, mask) == containing
    assert len(containing) > 2
    assert sequences == ()


def test_breakers_are_looked_up_for_each_salt(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    find = TokenWords._find_breaker
    monkeypatch.setattr(TokenWords, "_find_breaker", lambda *given: reads.append(given[2]) or find(*given))
    words = TokenWords(tokenizer)
    found = [words.breakers(["e"], cache_salt=salt) for salt in ("ann", "ben", "ann")]
    assert found[0] == found[1] == found[2]
    assert reads == ["ann", "ben"]


def test_a_breaker_of_several_tokens_is_found_from_the_end_of_its_first(tokenizer: Tokenizer) -> None:
    mask, sequences = TokenWords(tokenizer).breakers(["the l"])
    assert _contained(tokenizer, mask) == set()
    assert sequences
    for head, *tail in sequences:
        text = tokenizer.token_bytes(head)
        assert any(text.endswith(b"the l"[:size]) for size in range(1, 5))
        assert (text + _text(tokenizer, tuple(tail))).endswith(b"the l")
    heads = {head for head, *_ in sequences}
    assert heads == {
        i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i).endswith((b"t", b"th", b"the", b"the "))
    }


def test_no_breakers_are_no_tokens(tokenizer: Tokenizer) -> None:
    assert TokenWords(tokenizer).breakers([]) == (b"", ())


def test_too_many_sequences_are_refused(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.text.token_words._MAX_SEQUENCES", 1)
    with pytest.raises(InvalidRequest, match=r"have .* spellings with several tokens; the limit is 1;"):
        TokenWords(tokenizer).breakers(["the hello the hello"])
