"""Detokenizer, StopStringMatcher and ChoiceText on chosen cases; the general laws are in test_detokenizer_laws.py."""

import pytest

from server.text.detokenizer import Detokenizer
from server.text.stop_strings import ChoiceText, StopStringMatcher
from server.text.tokenizer import Tokenizer
from tests.helpers.tokenizers import byte_level_info, sentencepiece_info

IM_END = 3


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(byte_level_info())


def ids_of_bytes(tokenizer: Tokenizer, data: bytes) -> list[int]:
    by_bytes = {tokenizer.token_bytes(i): i for i in range(5, 5 + 256)}
    return [by_bytes[data[i : i + 1]] for i in range(len(data))]


def choice(tokenizer: Tokenizer, *stops: str, include: bool = False) -> ChoiceText:
    return ChoiceText(Detokenizer(tokenizer), StopStringMatcher(stops, include_in_output=include))


def test_character_comes_when_its_last_byte_does(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    deltas = [detokenizer.push([i]) for i in ids_of_bytes(tokenizer, "a🙂é".encode())]
    assert deltas == ["a", "", "", "", "🙂", "", "é"]
    assert detokenizer.finish() == ""


def test_incomplete_character_ends_as_replacement(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(ids_of_bytes(tokenizer, b"a\xf0\x9f\x99")) == "a"
    assert detokenizer.finish() == "\ufffd"


def test_impossible_byte_is_replaced_at_once(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push(ids_of_bytes(tokenizer, b"\xf0a\xffb")) == "\ufffda\ufffdb"


def test_sentencepiece_keeps_the_space_after_a_prompt() -> None:
    tokenizer = Tokenizer(sentencepiece_info())
    ids = tokenizer.encode("the hello", add_special_tokens=False)
    assert Detokenizer(tokenizer).push(ids) == " the hello"
    assert Detokenizer(tokenizer, continues=False).push(ids) == "the hello"


@pytest.mark.parametrize(("include", "expected"), [(False, "one "), (True, "one STOP")])
def test_stop_string_across_deltas(include: bool, expected: str) -> None:
    matcher = StopStringMatcher(["STOP"], include_in_output=include)
    assert [matcher.push(delta) for delta in ("one S", "TO")] == ["one ", ""]
    assert "one " + matcher.push("P two") == expected
    assert matcher.found == "STOP"


def test_held_text_is_released_when_it_cannot_match() -> None:
    matcher = StopStringMatcher(["</think>"])
    assert [matcher.push(delta) for delta in ("a <", "/thi", "s")] == ["a ", "", "</this"]


def test_held_text_is_released_at_the_end() -> None:
    matcher = StopStringMatcher(["\n\n"])
    assert matcher.push("a\n") == "a"
    assert matcher.finish() == "\n"


def test_stop_string_that_repeats_its_own_beginning() -> None:
    matcher = StopStringMatcher(["aab"])
    assert "".join(map(matcher.push, "xaaab")) == "xa"
    assert matcher.found == "aab"


@pytest.mark.parametrize(
    ("stops", "text", "found", "before"),
    [
        (["abcd", "c"], "xabcd", "c", "xab"),  # completed first, though it starts later
        (["b", "ab"], "xab", "ab", "x"),  # both are complete here: the longest
        (["zz", "b"], "abzz", "b", "a"),
    ],
)
def test_first_completed_stop_string_counts(stops: list[str], text: str, found: str, before: str) -> None:
    for pieces in ([text], list(text)):
        matcher = StopStringMatcher(stops)
        sent = ""
        for piece in pieces:
            if matcher.found is None:
                sent += matcher.push(piece)
        assert (matcher.found, sent) == (found, before)


def test_choice_counts_ids_up_to_the_stop_string(tokenizer: Tokenizer) -> None:
    text = choice(tokenizer, "bc")
    assert text.push(tokenizer.encode("xab")) == ("xa", 3, None)
    assert text.push(tokenizer.encode("cyz")) == ("", 1, "bc")


def test_choice_drops_the_rest_of_the_id_that_completes_a_stop_string(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a the hen")
    assert choice(tokenizer, " t").push(ids) == ("a", 2, " t")
    assert choice(tokenizer, " t", include=True).push(ids) == ("a t", 2, " t")


def test_choice_releases_everything_with_the_last_ids(tokenizer: Tokenizer) -> None:
    text = choice(tokenizer, "\n\n")
    ids = [*tokenizer.encode("a\n"), *ids_of_bytes(tokenizer, b"\xf0\x9f"), IM_END]
    assert text.push(ids, is_last=True) == ("a\n\ufffd", 5, None)


def test_choice_finds_a_stop_string_that_the_end_completes(tokenizer: Tokenizer) -> None:
    text = choice(tokenizer, "\ufffd")
    assert text.push(ids_of_bytes(tokenizer, b"a\xf0"), is_last=True) == ("a", 2, "\ufffd")


def test_held_text_is_bounded() -> None:
    matcher = StopStringMatcher(["a" * 50 + "b"])
    sent = 0
    for count in range(1, 500):
        sent += len(matcher.push("a"))
        assert count - sent <= 50
