"""Unigram vocabularies of GGUF files give the ids of XLM-RoBERTa's own tokenizer."""

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import XLMRobertaTokenizer

from models.errors import CheckpointError
from models.tokenizer.gguf import convert_gguf_tokenizer
from tests.helpers.unigram import CHARSMAP, PIECES, SPECIAL, TOKENS, unigram_metadata

PATH = Path("m.gguf")
TEXTS = [
    "The boats float, and sink.",
    "  ﬁne\u00a0\tboat ",
    "½ Ａ e\u0301 中文",
    "abcq az azq bzq",
    "",
    "[PAD1]",
    "a</s>b",
]


def converted(**changes: Any) -> Tokenizer:
    result = convert_gguf_tokenizer(unigram_metadata(**changes), PATH)
    assert not result.add_bos_token
    return result.tokenizer


def original() -> Tokenizer:
    scores = [*((token, 0.0) for token in SPECIAL), *PIECES.items(), ("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=scores, _spm_precompiled_charsmap=CHARSMAP).backend_tokenizer


CONVERTED, ORIGINAL = converted(), original()


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_original_s(text: str) -> None:
    assert CONVERTED.encode(text).ids == ORIGINAL.encode(text).ids


@given(st.text(st.sampled_from("theboaflsqzc,. \n\t\u00a0\u200b▁éﬁＡ½中\U0001f600"), max_size=30))
def test_ids_of_any_text_are_the_original_s(text: str) -> None:
    assert CONVERTED.encode(text).ids == ORIGINAL.encode(text).ids


def test_pairs_are_the_original_s() -> None:
    ours, theirs = (each.encode("the boat", "a float") for each in (CONVERTED, ORIGINAL))
    assert ours.tokens[:5] == ["<s>", "▁the", "▁boat", "</s>", "</s>"]
    assert (ours.ids, ours.type_ids) == (theirs.ids, theirs.type_ids)


def test_texts_come_back() -> None:
    ids = CONVERTED.encode("the boat floats.").ids
    assert CONVERTED.decode(ids) == "the boat floats."


def test_characters_are_replaced_as_the_table_says() -> None:
    assert converted().encode("ﬁne").tokens == ["<s>", "▁fi", "ne", "</s>"]
    assert converted(precompiled_charsmap=None).encode("ﬁne").tokens == ["<s>", "▁", "ﬁ", "ne", "</s>"]


@pytest.mark.parametrize(
    "stored",
    [
        list(CHARSMAP),
        [byte - 256 if byte > 127 else byte for byte in CHARSMAP],
        list(base64.b64encode(CHARSMAP).decode()),
    ],
    ids=["unsigned", "signed", "base64"],
)
def test_the_table_is_read_as_converters_wrote_it(stored: list[Any]) -> None:
    for text in TEXTS:
        assert converted(precompiled_charsmap=stored).encode(text).ids == ORIGINAL.encode(text).ids


def test_special_tokens_without_ids_have_their_usual_names() -> None:
    unnamed = dict.fromkeys(("bos_token_id", "eos_token_id", "seperator_token_id", "cls_token_id"))
    assert converted(**unnamed).encode("the").ids == [0, TOKENS.index("▁the"), 2]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scores": None}, "has no score for each"),
        ({"scores": [0.0]}, "has no score for each"),
        ({"scores": ["0"] * len(TOKENS)}, "has no score for each"),
        ({"token_type": [1] * len(TOKENS)}, "names no unknown token"),
        ({"precompiled_charsmap": "abc"}, "is not a list of bytes"),
        ({"precompiled_charsmap": [0.5]}, "is not a list of bytes"),
        ({"precompiled_charsmap": ["!"]}, "is not a list of bytes"),
        ({"precompiled_charsmap": ["é"]}, "is not a list of bytes"),
        ({"precompiled_charsmap": [1, 2]}, "is truncated"),
        ({"precompiled_charsmap": list(CHARSMAP[:100])}, "is truncated"),
        ({"precompiled_charsmap": [4, 0, 0, 0, 0, 0, 0, 0]}, "points outside itself"),
        ({"precompiled_charsmap": list(CHARSMAP[:-10])}, "points outside itself"),
        ({"precompiled_charsmap": [*CHARSMAP[:-2], 0xC3, 0]}, "are not UTF-8"),
        (
            {"precompiled_charsmap": [*CHARSMAP[:-19], *"ü中中中中中中".encode()[-19:]]},
            "into the middle of a character",
        ),
    ],
)
def test_metadata_that_cannot_be_used(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        converted(**changes)


@given(st.lists(st.tuples(st.integers(0, len(CHARSMAP) - 1), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_damaged_table_is_refused_or_harmless(changes: list[tuple[int, int]]) -> None:
    """`tokenizers` panics at some tables, which no `except Exception` catches."""
    damaged = list(CHARSMAP)
    for place, byte in changes:
        damaged[place] = byte
    try:
        tokenizer = converted(precompiled_charsmap=damaged)
    except CheckpointError:
        return
    for text in TEXTS:
        tokenizer.encode(text)
