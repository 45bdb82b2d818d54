"""KnownPieces: ids of conversations that grow, against those of the whole text."""

import functools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text import known_pieces
from server.text.known_pieces import KnownPieces, find_known_pieces
from server.text.tokenizer import Tokenizer
from tests.helpers.tokenizers import DEMO_MODEL, QWEN_MODEL, byte_level_info, gguf_assets, info_of, sentencepiece_info

TEXTS = st.lists(
    st.sampled_from(["the hello", " ", "<|im_", "start|>", "\n", "naïve 日本語", "<tool_call>", "x" * 40, "▁", " hen"]),
    max_size=8,
).map("".join)


@functools.cache
def tokenizer_of(name: str) -> Tokenizer:
    if name in ("demo", "qwen"):
        assets = gguf_assets(DEMO_MODEL if name == "demo" else QWEN_MODEL, download=name == "demo")
        if assets is None:
            pytest.skip("the model is not in the cache")
        return Tokenizer(info_of(assets))
    return Tokenizer(byte_level_info() if name == "byte level" else sentencepiece_info())


@pytest.mark.parametrize("name", ["byte level", "sentencepiece", "demo", "qwen"])
@settings(max_examples=60, deadline=None)
@given(messages=st.lists(TEXTS, max_size=6), data=st.data())
def test_a_conversation_that_grows_has_the_ids_of_the_whole(
    name: str, messages: list[str], data: st.DataObject
) -> None:
    tokenizer = tokenizer_of(name)
    known = find_known_pieces(tokenizer._parsing, tokenizer._encode_parsed)
    assert known is not None
    controls = sorted(tokenizer.special_texts)
    text = data.draw(TEXTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_pieces, "_MIN_CHARACTERS", 1)
        for message in messages:
            text += data.draw(st.sampled_from(controls)) + message
            assert known.ids(text) == tokenizer.encode(text, add_special_tokens=False)


def _counted(calls: list[str], max_bytes: int = 10_000) -> KnownPieces:
    def encode(text: str, at_most: int | None) -> list[int]:
        assert at_most is None
        calls.append(text)
        return [1, len(text)] if text.startswith("<|") else [len(text)]

    return KnownPieces({"<|a|>": 1}, frozenset({"<|a|>"}), encode, max_bytes=max_bytes)


def test_what_is_known_is_not_tokenized_again() -> None:
    calls: list[str] = []
    known = _counted(calls)
    first, second = "x" * 1000, "y" * 1000
    known.ids(f"<|a|>{first}")
    assert known.ids(f"<|a|>{first}<|a|>{second}") == [1, 1005, 1, 1005]
    assert calls == [f"<|a|>{first}", f"<|a|>{second}"]


def test_the_least_recently_used_is_forgotten_first() -> None:
    calls: list[str] = []
    known = _counted(calls, max_bytes=2500)
    one, two, three = ("x" * 1000, "y" * 1000, "z" * 1000)
    for text in (one, two, one, three):
        known.ids(f"<|a|>{text}")
    calls.clear()
    for text in (one, three, two):
        known.ids(f"<|a|>{text}")
    assert calls == [f"<|a|>{two}"]


@pytest.mark.parametrize("text", ["x" * 20_000, "漢" * 20_000])
def test_texts_of_many_tokens_count_with_their_ids(text: str) -> None:
    """A text that is slow to tokenize has a token for each letter, or three, and takes four bytes for each of them."""
    known = KnownPieces({"<|a|>": 1}, frozenset({"<|a|>"}), lambda each, _: [7] * 3 * len(each), max_bytes=2_000_000)
    for number in range(40):
        known.ids(f"<|a|>{number} {text}")
    held = sum(sys.getsizeof(piece) + sys.getsizeof(ids) for (_, _, piece), (ids, _) in known._known.items())
    assert held <= 2_000_000
    assert known._num_bytes == sum(num_bytes for _, num_bytes in known._known.values())
    assert len(known._known) > 1


def test_a_beginning_is_apart_from_the_same_text_within() -> None:
    calls: list[str] = []
    known = _counted(calls)
    text = "x" * 1000
    known.ids(text)
    known.ids(f"<|a|>{text}")
    assert calls == [text, f"<|a|>{text}"]


def test_what_is_known_is_known_to_its_salt_alone() -> None:
    calls: list[str] = []
    known = _counted(calls)
    text = f"<|a|>{'x' * 1000}"
    assert [known.ids(text, salt=salt) for salt in ("ann", "ben", "ann")] == [[1, 1005]] * 3
    assert calls == [text, text]


def test_tokens_that_take_blanks_are_left_to_the_tokenizer() -> None:
    tokenizer = tokenizer_of("byte level")._parsing
    encode = tokenizer_of("byte level")._encode_parsed
    assert find_known_pieces(tokenizer, encode) is not None
    copy = type(tokenizer).from_str(tokenizer.to_str().replace('"rstrip":false', '"rstrip":true', 1))
    assert any(token.rstrip for token in copy.get_added_tokens_decoder().values())
    assert find_known_pieces(copy, encode) is None
