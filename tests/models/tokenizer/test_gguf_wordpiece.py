"""WordPiece vocabularies of GGUF files give the ids of the original tokenizer."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from models.errors import CheckpointError
from models.tokenizer.gguf import convert_gguf_tokenizer

PATH = Path("m.gguf")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ORIGINAL = [
    *SPECIAL,
    *("[unused0]", "the", "un", "##able", "##the", "a", "##a", "é", "##é", "e", "##e", "中", "##s", ".", "'", "#"),
]
TEXTS = ["The unable", "unthe Éa 中e.", "'the' zzz", "", "[SEP] the", "a#a ##a", "[unused0]"]


def metadata(**changes: Any) -> dict[str, Any]:
    """Return metadata in the form of llama.cpp's converter."""
    types = [3 if token in SPECIAL else 1 for token in ORIGINAL]
    tokens = [
        token if kind == 3 else token[2:] if token.startswith("##") else "▁" + token
        for token, kind in zip(ORIGINAL, types, strict=True)
    ]
    ids = {"unknown": 1, "cls": 2, "seperator": 3, "padding": 0, "mask": 4}
    named = {f"{name}_token_id": token_id for name, token_id in ids.items()}
    fields = {"model": "bert", "pre": "default", "tokens": tokens, "token_type": types, **named, **changes}
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items() if value is not None}


def original(*, lowercase: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece({token: i for i, token in enumerate(ORIGINAL)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


@pytest.mark.parametrize("lowercase", [True, False])
def test_ids_are_the_original_s(lowercase: bool) -> None:
    changes = {} if lowercase else {"normalizer.lowercase": False}
    converted = convert_gguf_tokenizer(metadata(**changes), PATH)
    assert not converted.add_bos_token
    for text in TEXTS:
        assert converted.tokenizer.encode(text).ids == original(lowercase=lowercase).encode(text).ids


@given(st.text(st.sampled_from("theunabls é.'#中 \n[]SEPZ"), max_size=30))
def test_ids_of_any_text_are_the_original_s(text: str) -> None:
    assert CONVERTED.encode(text).ids == REFERENCE.encode(text).ids


def test_pairs_have_token_types() -> None:
    ours, theirs = (each.encode("the", "a e") for each in (CONVERTED, REFERENCE))
    assert (ours.ids, ours.type_ids) == (theirs.ids, theirs.type_ids)


def test_special_tokens_without_ids_have_their_usual_names() -> None:
    unnamed = dict.fromkeys(("unknown_token_id", "cls_token_id", "seperator_token_id"))
    assert convert_gguf_tokenizer(metadata(**unnamed), PATH).tokenizer.encode("the zzz").ids == [2, 6, 1, 3]


def test_a_vocabulary_without_them_is_refused() -> None:
    changes = {"tokens": ["▁the"], "token_type": [1]}
    with pytest.raises(CheckpointError, match="names no unknown token"):
        convert_gguf_tokenizer(metadata(**changes), PATH)


CONVERTED = convert_gguf_tokenizer(metadata(), PATH).tokenizer
REFERENCE = original()
