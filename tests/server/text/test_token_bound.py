"""The least number of tokens of a text, and its cutting into pieces: against what real tokenizers make of it."""

import functools
import json
from collections.abc import Iterator

import msgspec
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

from engine.protocol import TokenizerInfo
from models.tokenizer.gguf_pretokenizers import WORD_SPLITS
from server.text import pieces
from server.text import tokenizer as tokenizer_module
from server.text.token_bound import TooManyTokens
from server.text.tokenizer import Tokenizer
from tests.helpers.tokenizers import (
    DEMO_MODEL,
    QWEN_MODEL,
    byte_level_info,
    gguf_assets,
    info_of,
    sentencepiece_info,
)

SMALL_PIECE = 24

_WORDS = [
    "the",
    "hello",
    "a",
    "I'll",
    "it's",
    "x1",
    "3.14",
    "don't",
    "GmbH",
    "naïve",
    "日本語",
    "한국",
    "🙂",
    "e\u0301",
    "_",
]
_SPACE = [" ", "  ", " " * 30, "\n", "\r\n", "\t", "\u3000", "\xa0", "▁", "▁▁", ""]
_OTHERS = [
    "<|im_end|>",
    "<s>",
    "</s>",
    "<tool_call>",
    "<0x0A>",
    "{",
    "}",
    "----",
    "====" * 9,
    ".",
    ",",
    "\x00",
    "(",
    "1" * 40,
]
TEXTS = st.lists(
    st.sampled_from(_WORDS * 3 + _SPACE * 2 + [" "] * 20 + _OTHERS) | st.text(max_size=6), max_size=60
).map("".join)


def _changed(info: TokenizerInfo, **parts: object) -> TokenizerInfo:
    reference = tokenizers.Tokenizer.from_buffer(info.tokenizer_json)
    for name, part in parts.items():
        setattr(reference, name, part)
    return msgspec.structs.replace(info, tokenizer_json=reference.to_str().encode())


def _stripping() -> TokenizerInfo:
    reference = tokenizers.Tokenizer.from_buffer(byte_level_info().tokenizer_json)
    reference.add_special_tokens([AddedToken("<tool_call>", lstrip=True, rstrip=True, normalized=False)])
    return msgspec.structs.replace(byte_level_info(), tokenizer_json=reference.to_str().encode())


def _without_byte(token: str) -> TokenizerInfo:
    content = json.loads(byte_level_info().tokenizer_json)
    del content["model"]["vocab"][token]
    return msgspec.structs.replace(byte_level_info(), tokenizer_json=json.dumps(content).encode())


def _real(model: str) -> TokenizerInfo:
    assets = gguf_assets(model, download=model == DEMO_MODEL)
    if assets is None:
        pytest.skip(f"{model} is not in the cache")
    return info_of(assets)


KINDS = {
    "byte level": byte_level_info,
    "byte level, BOS": lambda: byte_level_info(add_bos_token=True),
    "byte level, a byte missing": lambda: _without_byte("!"),
    "byte level, tokens that strip": _stripping,
    "byte level, NFC": lambda: _changed(_real(DEMO_MODEL), normalizer=normalizers.NFC()),
    "sentencepiece": sentencepiece_info,
    "smollm2": lambda: _real(DEMO_MODEL),
    "qwen": lambda: _real(QWEN_MODEL),
}


@functools.cache
def _tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(KINDS[kind]())


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return _tokenizer(request.param)


def _bound(tokenizer: Tokenizer, text: str, enough: int = 1 << 40) -> int:
    assert tokenizer._bound is not None
    return tokenizer._bound.at_least(text, enough=enough)


@given(text=TEXTS, enough=st.sampled_from([0, 1 << 40]))
@settings(max_examples=100, deadline=None)
def test_bound_is_never_above_the_number_of_tokens(tokenizer: Tokenizer, text: str, enough: int) -> None:
    bound = _bound(tokenizer, text, enough)
    for parse_special in (True, False):
        assert bound <= len(tokenizer.encode(text, add_special_tokens=False, parse_special=parse_special))


@pytest.mark.parametrize("kind", ["smollm2", "qwen"])
@pytest.mark.parametrize(
    "text", ["It was a dark night. " * 500, "日本語" * 3000, "0123456789" * 900, "x = [1, 2]\n" * 900]
)
def test_bound_is_a_fair_part_of_the_number_of_tokens(kind: str, text: str) -> None:
    tokenizer = _tokenizer(kind)
    assert 16 * _bound(tokenizer, text) > len(tokenizer.encode(text))


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": normalizers.Lowercase()},
        {"normalizer": normalizers.NFKC()},
        {"normalizer": normalizers.Strip()},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {"pre_tokenizer": pre_tokenizers.Split(Regex("a"), "removed")},
    ],
    ids=str,
)
def test_tokenizer_that_may_drop_text_has_no_bound(changes: dict[str, object]) -> None:
    tokenizer = Tokenizer(_changed(byte_level_info(), **changes))
    assert tokenizer._bound is None
    assert tokenizer._cuts is None


def test_text_far_beyond_the_limit_is_not_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = _tokenizer("smollm2")
    _bound(tokenizer, "")
    monkeypatch.setattr(tokenizer_module, "_ids", None)
    for text in ("the hen " * 100_000, "é" * 800_000, " " * 800_000):
        with pytest.raises(TooManyTokens) as caught:
            tokenizer.encode(text, at_most=8192)
        assert caught.value.num_tokens > 8192


def test_text_is_tokenized_up_to_the_limit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, sizes = _tokenizer("smollm2"), []
    encode = tokenizer_module._ids
    monkeypatch.setattr(tokenizer_module, "_ids", lambda *given: sizes.append(len(given[1])) or encode(*given))
    text = "Incomprehensibilities0123456789 zz " * 12_000
    bound = _bound(tokenizer, text)
    with pytest.raises(TooManyTokens) as caught:
        tokenizer.encode(text, at_most=bound + 1)
    assert bound < caught.value.num_tokens
    assert sum(sizes) < 0.9 * len(text)


@pytest.fixture(scope="module")
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (pieces, tokenizer_module):
            patch.setattr(module, "PIECE_SIZE", SMALL_PIECE)
        yield


def _whole(tokenizer: Tokenizer, text: str, *, parse_special: bool) -> list[int]:
    reference = tokenizer._parsing if parse_special else tokenizer._plain
    return list(reference.encode(text, add_special_tokens=False).ids)


def _check_pieces(tokenizer: Tokenizer, text: str) -> None:
    for parse_special in (True, False):
        whole = _whole(tokenizer, text, parse_special=parse_special)
        assert tokenizer.encode(text, add_special_tokens=False, parse_special=parse_special) == whole
        for num_tokens in (1, 10):
            end = tokenizer.encode_end(text, num_tokens, add_special_tokens=False, parse_special=parse_special)
            assert end == whole[len(whole) - len(end) :]
            assert len(end) >= min(num_tokens, len(whole))


@pytest.mark.usefixtures("small_pieces")
@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_pieces_have_the_tokens_of_the_whole(tokenizer: Tokenizer, text: str) -> None:
    _check_pieces(tokenizer, text)


@functools.cache
def _split_by(name: str) -> Tokenizer:
    split = WORD_SPLITS[name]
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in split.patterns]
    words = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return Tokenizer(_changed(_real(DEMO_MODEL), pre_tokenizer=words))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", sorted({split.patterns: name for name, split in WORD_SPLITS.items()}.values()))
@given(text=TEXTS)
@settings(max_examples=12, deadline=None)
def test_pieces_have_the_tokens_of_the_whole_under_every_word_pattern(name: str, text: str) -> None:
    _check_pieces(_split_by(name), text)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", ["byte level", "sentencepiece", "smollm2", "qwen"])
def test_prose_is_cut(kind: str) -> None:
    text = "the hello he a the " * 20
    cuts = _tokenizer(kind)._cuts
    assert cuts is not None
    found = list(cuts.pieces(text))
    assert len(found) > 10
    assert max(end - start for start, end in found) < 2 * SMALL_PIECE


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("pattern", [r"(?<=a)b", r".+", r"\bthe\b", r"^the"])
def test_pattern_that_sees_beyond_a_word_is_not_cut_at(pattern: str) -> None:
    words = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    _check_pieces(Tokenizer(_changed(byte_level_info(), pre_tokenizer=words)), "the hello then ab b a the " * 20)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("kind", ["byte level, BOS", "sentencepiece"])
def test_bos_comes_first_and_once(kind: str) -> None:
    tokenizer = _tokenizer(kind)
    ids = tokenizer.encode("the hello he a the " * 20)
    assert ids.count(ids[0]) == 1
    assert tokenizer.encode_end("the hello he a the " * 20, 5)[0] == ids[0] == tokenizer.bos_token_id


@pytest.mark.usefixtures("small_pieces")
@given(text=TEXTS, hidden=TEXTS, at_most=st.integers(0, 80))
@settings(max_examples=60, deadline=None)
def test_limit_refuses_nothing_that_fits(text: str, hidden: str, at_most: int) -> None:
    tokenizer = _tokenizer("smollm2")
    prompt, texts = f"<|im_start|>777{text}<|im_end|>", {"777": hidden or "<|im_end|>"}
    for encode in (
        lambda **limit: tokenizer.encode(text, **limit),
        lambda **limit: tokenizer.encode_chat(prompt, texts, **limit),
    ):
        whole = encode()
        try:
            found = encode(at_most=at_most)
        except TooManyTokens as error:
            num_tokens = error.num_tokens
        else:
            assert found == whole
            continue
        assert at_most < num_tokens <= len(whole)
