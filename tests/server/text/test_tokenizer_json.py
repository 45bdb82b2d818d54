"""A tokenizer.json that is read in steps is what the library reads."""

import json

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from server.text import tokenizer_json
from server.text.tokenizer_json import parse_tokenizer
from tests.helpers.fake_client import byte_tokenizer
from tests.helpers.tokenizers import DEMO_MODEL, QWEN_MODEL, byte_level_info, gguf_assets, sentencepiece_info


@pytest.fixture(autouse=True)
def _in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_json, "_MIN_BYTES", 0)


def _small(second: str = "b", merged: str = "ab", **settings: object) -> tokenizers.Tokenizer:
    """Return a tokenizer.json with one merge, of "a" and `second`."""
    vocabulary = {"a": 0, second: 1, merged: 2, "<unk>": 3, "a b": 4}
    return tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", second)], **settings))


def _with_all_parts() -> bytes:
    tokenizer = _small(unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=True, dropout=0.5)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("a")])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<s>", lstrip=True), AddedToken("ab", rstrip=True)])  # one is in the model
    tokenizer.add_tokens([AddedToken("c", single_word=True, normalized=True), "<tool>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 5)])
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_token="a")
    return tokenizer.to_str().encode()


def _with_a_gap() -> bytes:
    """An added token whose id does not follow from the others."""
    document = json.loads(_with_all_parts())
    document["added_tokens"][-1]["id"] += 7
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "text",
    [
        byte_tokenizer(),
        byte_level_info().tokenizer_json,
        sentencepiece_info().tokenizer_json,
        _small("##b", continuing_subword_prefix="##").to_str().encode(),
        _small("b</w>", "ab</w>", end_of_word_suffix="</w>").to_str().encode(),
        _with_all_parts(),
        _with_a_gap(),
        tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)).to_str().encode(),
        tokenizers.Tokenizer(models.WordLevel({"a": 0}, "a")).to_str().encode(),
    ],
    ids=["bytes", "byte level", "sentencepiece", "prefix", "suffix", "all parts", "gap", "unigram", "words"],
)
def test_it_is_the_same(text: bytes) -> None:
    assert parse_tokenizer(text).to_str() == tokenizers.Tokenizer.from_buffer(text).to_str()


def test_merges_may_be_texts() -> None:
    document = json.loads(_small().to_str())
    document["model"]["merges"] = ["a b"]
    text = json.dumps(document).encode()
    assert parse_tokenizer(text).to_str() == tokenizers.Tokenizer.from_buffer(text).to_str()


def test_real_vocabularies_are_read_in_steps() -> None:
    for model in (DEMO_MODEL, QWEN_MODEL):
        if (assets := gguf_assets(model, download=False)) is not None:
            stepped = tokenizer_json._in_steps(assets.tokenizer_json)
            assert stepped is not None
            assert stepped.to_str() == tokenizers.Tokenizer.from_buffer(assets.tokenizer_json).to_str()
    assert tokenizer_json._in_steps(byte_tokenizer()) is not None


@pytest.mark.parametrize("text", [b"{}", b"not json", b'{"model": {"type": "BPE"}}'])
def test_what_is_no_tokenizer_fails_as_in_the_library(text: bytes) -> None:
    with pytest.raises(Exception, match=r".") as expected:
        tokenizers.Tokenizer.from_buffer(text)
    with pytest.raises(type(expected.value)):
        parse_tokenizer(text)
