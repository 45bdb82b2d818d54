"""Laws of detokenizing: deltas join to the whole text, and stop strings are found however the text is cut."""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from server.text.detokenizer import Detokenizer, decode
from server.text.stop_strings import ChoiceText, StopStringMatcher
from server.text.tokenizer import Tokenizer
from tests.helpers.tokenizers import byte_level_info, byte_level_json, sentencepiece_info

KINDS = {"byte level": byte_level_info, "sentencepiece": sentencepiece_info}
ALPHABET = "ab\n é🙂"
texts = st.text(ALPHABET, min_size=1, max_size=40)


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    return Tokenizer(KINDS[kind]())


def cut(sequence: list[int], cuts: list[int]) -> list[list[int]]:
    borders = [0, *sorted(c % (len(sequence) + 1) for c in cuts), len(sequence)]
    return [sequence[a:b] for a, b in pairwise(borders)]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_deltas_join_to_the_text_of_all_ids(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=30))
    cuts = data.draw(st.lists(st.integers(0, 30), max_size=6))
    skip, continues = data.draw(st.booleans()), data.draw(st.booleans())
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip, continues=continues)
    deltas = [detokenizer.push(part) for part in cut(ids, cuts)] + [detokenizer.finish()]
    assert "".join(deltas) == decode(tokenizer, ids, skip_special_tokens=skip, continues=continues)
    expected = b"".join(tokenizer.token_bytes(i) for i in ids if not (skip and i in tokenizer.special_ids))
    strips = tokenizer.strips_space and not continues
    text = expected.decode("utf-8", errors="replace")
    assert "".join(deltas) == (text.removeprefix(" ") if strips else text)


@given(ids=st.lists(st.integers(0, 265), max_size=40))
def test_byte_level_text_equals_the_librarys(ids: list[int]) -> None:
    reference = Reference.from_str(byte_level_json())
    assert decode(tokenizer_of("byte level"), ids) == reference.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts)
def test_text_survives_encoding(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text, parse_special=False)
    assert decode(tokenizer, ids) == text


def first_completed(text: str, stops: list[str]) -> tuple[int, str] | None:
    """Where the first stop string ends, and which it is, the longest of equals: by looking at every end in turn."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return end, max(complete, key=len)
    return None


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200)
@given(data=st.data())
def test_stop_strings_are_found_whole_in_random_pieces(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    text = data.draw(texts)
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : data.draw(st.integers(start + 1, len(text)))]
    stops = [stop, *data.draw(st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3))]
    include = data.draw(st.booleans())
    ids = tokenizer.encode(text, add_special_tokens=False, parse_special=False)
    pieces = cut(ids, data.draw(st.lists(st.integers(0, 60), max_size=8)))
    choice = ChoiceText(Detokenizer(tokenizer, continues=False), StopStringMatcher(stops, include_in_output=include))
    sent, num_ids, found = "", 0, None
    for number, piece in enumerate(pieces, start=1):
        if found is None:
            released, count, found = choice.push(piece, is_last=number == len(pieces))
            sent, num_ids = sent + released, num_ids + count
    end, expected = first_completed(text, stops) or (None, None)
    assert found == expected
    assert expected is not None
    assert sent == text[: end if include else end - len(expected)]
    if not include:
        assert not any(other in sent for other in stops)
    # The counted ids complete the stop string, and one less does not.
    assert len(decode(tokenizer, ids[:num_ids])) >= end
    assert len(decode(tokenizer, ids[: num_ids - 1]).rstrip("\ufffd")) < end


@given(deltas=st.lists(st.text(ALPHABET, max_size=5), max_size=12), stops=st.lists(texts, min_size=1, max_size=4))
def test_text_without_a_stop_string_passes_unchanged_and_little_is_held(deltas: list[str], stops: list[str]) -> None:
    matcher = StopStringMatcher([stop + "!" for stop in stops])
    sent = 0
    released = ""
    for delta in deltas:
        released += matcher.push(delta)
        sent += len(delta)
        assert sent - len(released) <= max(map(len, stops))
    assert matcher.found is None
    assert released + matcher.finish() == "".join(deltas)
