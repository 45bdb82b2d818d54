"""Texts and pairs as pooling models read them, compared with what the tokenizers library makes of them itself."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from server.text.detokenizer import decode
from server.text.input_encoder import Cut, FirstText, InputEncoder, shares
from server.text.tokenizer import Tokenizer
from tests.helpers.tokenizers import byte_level_info, sentencepiece_info, wordpiece_info, wordpiece_json

pytestmark = pytest.mark.fast

WORDS = Tokenizer(wordpiece_info())
ENCODER = InputEncoder(WORDS)
CLS, SEP = 2, 3
texts = st.text(alphabet="ab ?\nü🙂", max_size=30)


def _library(max_tokens: int | None = None, direction: str = "right") -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer.from_str(wordpiece_json())
    if max_tokens is not None:
        library.enable_truncation(max_tokens, strategy="longest_first", direction=direction)
    return library


@given(st.lists(texts, min_size=1, max_size=4), st.booleans())
def test_texts_are_those_of_the_library(given_texts: list[str], add_special_tokens: bool) -> None:
    expected = _library().encode_batch(given_texts, add_special_tokens=add_special_tokens)
    found = ENCODER.texts(given_texts, add_special_tokens=add_special_tokens)
    assert [each.ids for each in found] == [each.ids for each in expected]
    assert all(each.type_ids is None for each in found)


@given(texts, st.integers(3, 12), st.sampled_from(["left", "right"]))
def test_a_text_is_cut_as_the_library_cuts_it(text: str, max_tokens: int, direction: str) -> None:
    (expected,) = _library(max_tokens, direction).encode_batch([text])
    (found,) = ENCODER.texts([text], cut=Cut(max_tokens, keeps_end=direction == "left"))
    assert found.ids == expected.ids


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_pairs_are_joined_by_the_post_processor(pairs: list[tuple[str, str]]) -> None:
    expected = _library().encode_batch(pairs)
    found = ENCODER.pairs(pairs)
    assert [each.ids for each in found] == [each.ids for each in expected]
    assert [each.type_ids for each in found] == [each.type_ids for each in expected]  # the last [SEP] is a 1


@given(texts, texts, st.integers(4, 20), st.sampled_from(["left", "right"]))
def test_a_pair_is_cut_as_the_library_cuts_it(first: str, second: str, max_tokens: int, direction: str) -> None:
    (expected,) = _library(max_tokens, direction).encode_batch([(first, second)])
    (found,) = ENCODER.pairs([(first, second)], cut=Cut(max_tokens, keeps_end=direction == "left"))
    assert (found.ids, found.type_ids) == (expected.ids, expected.type_ids)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_what_stays_of_a_pair_fills_the_room_and_is_even(first: int, second: int, room: int) -> None:
    kept_first, kept_second = shares(first, second, room)
    assert kept_first + kept_second == min(room, first + second)
    assert 0 <= kept_first <= first
    assert 0 <= kept_second <= second
    if kept_first < first and kept_second < second:
        assert abs(kept_first - kept_second) <= 1


def test_a_query_is_cut_for_its_own_pair_alone() -> None:
    long, short = ENCODER.pairs([("a b a b a b", "b " * 9), ("a b a b a b", "b")], cut=Cut(11))
    assert len(long.ids) == 11
    assert short.ids == ENCODER.pairs([("a b a b a b", "b")])[0].ids


@given(st.lists(texts, min_size=1, max_size=3), st.lists(texts, min_size=2, max_size=6), st.integers(4, 20))
def test_first_texts_that_are_known_from_the_last_call_change_nothing(
    firsts: list[str], seconds: list[str], max_tokens: int
) -> None:
    pairs = [(firsts[number % len(firsts)], second) for number, second in enumerate(seconds)]
    known: dict[str, FirstText] = {}
    found = [each for pair in pairs for each in ENCODER.pairs([pair], cut=Cut(max_tokens), known=known)]
    assert found == ENCODER.pairs(pairs, cut=Cut(max_tokens))
    assert list(known) == [pairs[-1][0]]


@pytest.mark.parametrize("cut", [Cut(9), Cut(9, keeps_end=True), None])
def test_what_is_cut_off_is_not_completed_by_the_post_processor(
    cut: Cut | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflows: list[int] = []
    completed = InputEncoder._input
    monkeypatch.setattr(
        InputEncoder, "_input", lambda self, each: overflows.append(len(each.overflowing)) or completed(self, each)
    )
    ENCODER.pairs([("a b " * 50, "b a " * 50)], cut=cut, max_second_tokens=7)
    ENCODER.texts(["a b " * 50], cut=cut, max_text_tokens=7)
    assert overflows == [0, 0]


def test_second_texts_are_cut_to_a_length_of_their_own() -> None:
    (found,) = ENCODER.pairs([("hello", "a b a b")], max_second_tokens=2)
    assert found.ids == ENCODER.pairs([("hello", "a b")])[0].ids
    (alone,) = ENCODER.texts(["a b a b"], max_text_tokens=2)
    assert alone.ids == ENCODER.texts(["a b"])[0].ids


@pytest.mark.parametrize("info", [sentencepiece_info(), byte_level_info(add_bos_token=True), byte_level_info()])
def test_a_bos_is_there_where_the_model_wants_one_and_counts(info) -> None:
    tokenizer = Tokenizer(info)
    encoder = InputEncoder(tokenizer)
    (whole,) = encoder.texts(["hello the hello"])
    assert whole.ids == tokenizer.encode("hello the hello")
    (cut,) = encoder.texts(["hello the hello"], cut=Cut(3))
    assert cut.ids == whole.ids[:3]
    assert encoder.num_added(is_pair=False) == len(tokenizer.encode(""))


def test_an_encoders_words_have_a_text() -> None:
    ids = WORDS.encode("Hello boats?")
    assert [WORDS.id_to_token(each) for each in ids] == ["[CLS]", "hello", "boat", "##s", "?", "[SEP]"]
    assert decode(WORDS, ids) == "hello boats ?"
