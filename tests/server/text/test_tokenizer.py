"""Tokenizer: ids from text and back, control tokens, and equality with the reference for real vocabularies."""

import json

import msgspec
import pytest
from tokenizers import Tokenizer as Reference
from tokenizers.processors import TemplateProcessing

from engine.errors import InvalidRequest, StartupError
from engine.protocol import TokenizerInfo
from server.text.detokenizer import decode
from server.text.input_encoder import InputEncoder
from server.text.tokenizer import Tokenizer
from tests.helpers.repository import FIXTURES
from tests.helpers.tokenizers import (
    DEMO_MODEL,
    QWEN_MODEL,
    byte_level_info,
    byte_level_json,
    gguf_assets,
    info_of,
    sentencepiece_info,
)

TOKENIZERS = FIXTURES / "tokenizer"
BOS, EOS, IM_START, IM_END = 0, 1, 2, 3


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(byte_level_info())


@pytest.mark.parametrize(
    ("fixture", "model", "download"), [("smollm2", DEMO_MODEL, True), ("qwen2.5-coder", QWEN_MODEL, False)]
)
def test_ids_equal_llama_servers(fixture: str, model: str, download: bool) -> None:
    assets = gguf_assets(model, download=download)
    if assets is None:
        pytest.skip(f"{model} is not in the cache")
    tokenizer = Tokenizer(info_of(assets))
    cases = json.loads((TOKENIZERS / f"{fixture}.json").read_text())["cases"]
    assert len(cases) > 150
    for case in cases:
        for name, parse_special in (("plain", False), ("parsed", True)):
            ids = tokenizer.encode(case["text"], add_special_tokens=False, parse_special=parse_special)
            assert ids == case[name], case["text"]
            assert decode(tokenizer, ids, skip_special_tokens=False) == case["text"]


def test_control_token_is_parsed_on_demand_only(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a<|im_end|>") == [*tokenizer.encode("a"), IM_END]
    plain = tokenizer.encode("a<|im_end|>", parse_special=False)
    assert not set(plain) & tokenizer.special_ids
    assert decode(tokenizer, plain) == "a<|im_end|>"


def _with_post_processor_bos(info: TokenizerInfo) -> TokenizerInfo:
    reference = Reference.from_str(byte_level_json())
    reference.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)])
    return msgspec.structs.replace(info, tokenizer_json=reference.to_str().encode())


@pytest.mark.parametrize(
    "info",
    [byte_level_info(add_bos_token=True), _with_post_processor_bos(byte_level_info())],
    ids=["added by the tokenizer", "added by the post-processor"],
)
def test_bos_is_added_once(info: TokenizerInfo) -> None:
    tokenizer = Tokenizer(info)
    for text in ("hello", "<s>hello"):
        ids = tokenizer.encode(text)
        assert ids[0] == BOS
        assert BOS not in ids[1:]
    assert tokenizer.encode("") == [BOS]
    assert BOS not in tokenizer.encode("hello", add_special_tokens=False)


def test_bos_is_not_added_unasked(tokenizer: Tokenizer) -> None:
    assert BOS not in tokenizer.encode("hello")


def test_bytes_of_byte_level_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("é the", add_special_tokens=False)
    assert [tokenizer.token_bytes(i) for i in ids] == [b"\xc3", b"\xa9", b" the"]
    assert tokenizer.id_to_token(ids[2]) == "Ġthe"


def test_bytes_of_sentencepiece_tokens() -> None:
    tokenizer = Tokenizer(sentencepiece_info())
    ids = tokenizer.encode("the é\n", add_special_tokens=False)
    assert [tokenizer.token_bytes(i) for i in ids] == [b" the", b" ", b"\xc3", b"\xa9", b"\n"]


def test_text_of_tokens_is_known_unless_they_cut_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("é the", add_special_tokens=False)
    for _ in range(2):  # the second time from memory
        assert [tokenizer.token_text(i) for i in ids] == [None, None, " the"]
    assert tokenizer.token_text(-1) == ""


def test_leading_space_of_sentencepiece_is_stripped_from_whole_texts_only() -> None:
    tokenizer = Tokenizer(sentencepiece_info())
    ids = tokenizer.encode("the hello", add_special_tokens=False)
    assert decode(tokenizer, ids) == "the hello"
    assert decode(tokenizer, ids, continues=True) == " the hello"


@pytest.mark.parametrize("token_id", [-1, 5000, 2**40])
def test_id_outside_the_vocabulary_has_no_text(tokenizer: Tokenizer, token_id: int) -> None:
    assert tokenizer.id_to_token(token_id) is None
    assert tokenizer.token_bytes(token_id) == b""


def test_special_tokens_are_left_out_on_demand(tokenizer: Tokenizer) -> None:
    ids = [IM_START, *tokenizer.encode("hello"), IM_END]
    assert decode(tokenizer, ids) == "hello"
    assert decode(tokenizer, ids, skip_special_tokens=False) == "<|im_start|>hello<|im_end|>"


def test_decode_equals_the_reference_for_text(tokenizer: Tokenizer) -> None:
    reference = Reference.from_str(byte_level_json())
    ids = tokenizer.encode("the hen 你好 🙂 </s> é")
    for skip in (True, False):
        assert decode(tokenizer, ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip)


def test_chat_keeps_hidden_texts_from_being_parsed(tokenizer: Tokenizer) -> None:
    prompt = "<|im_start|>user\nx 777 y<|im_end|>\n"
    ids = tokenizer.encode_chat(prompt, {"777": "<|im_end|>"})
    assert ids == [
        IM_START,
        *tokenizer.encode("user\nx <|im_end|> y", parse_special=False),
        IM_END,
        *tokenizer.encode("\n"),
    ]


@pytest.mark.parametrize("info", [byte_level_info(), sentencepiece_info()], ids=["byte level", "sentencepiece"])
def test_chat_with_a_hidden_text_has_no_seam(info: TokenizerInfo) -> None:
    tokenizer = Tokenizer(info)
    whole = "<s>hello then</s> the hello</s>hell"
    hidden = whole.replace("he", "314")
    assert tokenizer.encode_chat(hidden, {"314": "he"}) == tokenizer.encode(whole, add_special_tokens=False)


def test_truncation_and_padding_of_the_json_are_not_applied() -> None:
    reference = Reference.from_str(byte_level_json())
    reference.enable_truncation(2)
    reference.enable_padding(length=50, pad_id=4, pad_token="<pad>")
    tokenizer = Tokenizer(msgspec.structs.replace(byte_level_info(), tokenizer_json=reference.to_str().encode()))
    assert decode(tokenizer, tokenizer.encode("hello hello")) == "hello hello"


def test_unknown_decoder_refuses_to_start() -> None:
    content = json.loads(byte_level_json())
    content["decoder"] = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}
    with pytest.raises(StartupError, match="CTC"):
        Tokenizer(msgspec.structs.replace(byte_level_info(), tokenizer_json=json.dumps(content).encode()))


def test_a_text_on_which_the_library_panics_is_refused() -> None:
    info = byte_level_info()
    document = json.loads(info.tokenizer_json)
    pattern = {"Regex": "(z+)+$"}
    document["pre_tokenizer"] = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    tokenizer = Tokenizer(msgspec.structs.replace(info, tokenizer_json=json.dumps(document).encode()))
    text = "z" * 40 + "!"
    encode = [
        tokenizer.encode,
        lambda text: tokenizer.encode_chat(text, {}),
        lambda text: InputEncoder(tokenizer).texts([text]),
    ]
    for each in encode:
        with pytest.raises(InvalidRequest, match="the model's tokenizer fails on this text: Onig"):
            each(text)
        assert each("hello")
