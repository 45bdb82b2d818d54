"""load_tokenizer_assets: Hugging Face folders and GGUF metadata."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Reference
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from models.config.hf_config import HFConfig
from models.errors import CheckpointError, UnsupportedModelError
from models.sources.resolve import ModelFiles
from models.tokenizer.assets import TokenizerAssets
from models.tokenizer.gguf import convert_gguf_tokenizer
from models.tokenizer.load import load_tokenizer_assets
from server.text.tokenizer import Tokenizer
from tests.helpers.tokenizers import (
    DEMO_MODEL,
    byte_level_json,
    byte_level_metadata,
    gguf_assets,
    info_of,
    sentencepiece_metadata,
)

PATH = Path("m.gguf")
TEXTS = ["hello the hen", " é 你好 </s> x", "<s>hello", ""]


def write(folder: Path, **files: Any) -> Path:
    """Writes tokenizer.json and, by name without .json, other JSON files."""
    files.setdefault("tokenizer", json.loads(byte_level_json()))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def load(folder: Path, **config: Any) -> TokenizerAssets:
    return load_tokenizer_assets(ModelFiles(folder, (), "m"), HFConfig(config, "config.json"))


def json_with_bos() -> Any:
    reference = Reference.from_str(byte_level_json())
    reference.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    return json.loads(reference.to_str())


# --- Hugging Face layout ---------------------------------------------------------------------------------------------


def test_special_tokens_in_both_forms(tmp_path: Path) -> None:
    write(
        tmp_path,
        tokenizer_config={"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"},
        special_tokens_map={"pad_token": "<pad>"},
    )
    assets = load(tmp_path)
    assert assets.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    assert assets.bos_token_id == 0


def test_eos_ids_of_all_sources(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_config={"eos_token": "</s>"}, generation_config={"eos_token_id": [3, 2]})
    assert load(tmp_path, eos_token_id=2).eos_token_ids == [2, 3, 1]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config": {"chat_template": "in config"}}, "in config"),
        ({"tokenizer_config": {"chat_template": "in config"}, "chat_template": {"chat_template": "own"}}, "own"),
        ({"tokenizer_config": {"chat_template": [{"name": "default", "template": "d"}]}}, "d"),
        ({}, None),
    ],
)
def test_chat_template_of_each_form(tmp_path: Path, files: dict[str, Any], expected: str | None) -> None:
    assert load(write(tmp_path, **files)).chat_template == expected


def test_chat_template_file_comes_first(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_config={"chat_template": "old"})
    (tmp_path / "chat_template.jinja").write_text("néw", encoding="utf-8")
    assert load(tmp_path).chat_template == "néw"


@pytest.mark.parametrize("has_post_processor", [False, True])
@pytest.mark.parametrize("add_bos_token", [None, False, True])
def test_bos_as_in_transformers(tmp_path: Path, has_post_processor: bool, add_bos_token: bool | None) -> None:
    config: dict[str, Any] = {"bos_token": "<s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    if add_bos_token is not None:
        config["add_bos_token"] = add_bos_token
    tokenizer_json = json_with_bos() if has_post_processor else json.loads(byte_level_json())
    write(tmp_path, tokenizer=tokenizer_json, tokenizer_config=config)
    reference = AutoTokenizer.from_pretrained(str(tmp_path))
    ours = Tokenizer(info_of(load(tmp_path)))
    for text in ("hello the hen", ""):
        assert ours.encode(text) == reference.encode(text)


def test_tokens_of_the_configuration_are_added(tmp_path: Path) -> None:
    decoder = {"266": {"content": "<|extra|>", "special": True}, "267": {"content": "<word>", "special": False}}
    write(tmp_path, tokenizer_config={"added_tokens_decoder": decoder, "eos_token": "<|new_end|>"})
    assets = load(tmp_path)
    tokenizer = Tokenizer(info_of(assets))
    assert tokenizer.encode("<|extra|><word><|new_end|>") == [266, 267, 268]
    assert tokenizer.special_ids >= {266, 268}
    assert assets.eos_token_ids == [268]


def test_vocabulary_and_merges_are_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    model = json.loads(byte_level_json())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    converted = load(tmp_path)
    ids = Reference.from_str(byte_level_json()).encode("hello the hen").ids
    assert Tokenizer(info_of(converted)).encode("hello the hen") == ids
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", None)  # a call would fail
    assert load(tmp_path) == converted


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json cannot be read"):
        load(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        load(tmp_path)


def json_with_an_id_far_out() -> Any:
    content = json.loads(byte_level_json())
    content["model"]["vocab"]["a"] = 2**31
    return content


@pytest.mark.parametrize(
    ("files", "at_fault"),
    [
        ({"tokenizer": json_with_an_id_far_out()}, "tokenizer.json"),
        ({"tokenizer_config": {"bos_token": "\ud800"}}, "tokenizer_config.json"),
        ({"tokenizer_config": {"added_tokens_decoder": [1]}}, "tokenizer_config.json"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "<a>"}}}}, "tokenizer_config.json"),
        ({"tokenizer_config": {"added_tokens_decoder": {"1": "<a>"}}}, "tokenizer_config.json"),
        ({"tokenizer_config": {"added_tokens_decoder": {"1": {"content": 1}}}}, "tokenizer_config.json"),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"1": {"content": "a", "lstrip": 3.5}}}},
            "tokenizer_config.json",
        ),
        ({"tokenizer_config": {"chat_template": 3}}, "tokenizer_config.json"),
        ({"chat_template": {"chat_template": [{"name": "default", "template": []}]}}, "chat_template.json"),
        ({"generation_config": {"eos_token_id": {}}}, "generation_config.json"),
    ],
)
def test_malformed_values_are_refused(tmp_path: Path, files: dict[str, Any], at_fault: str) -> None:
    with pytest.raises(CheckpointError, match=at_fault):
        load(write(tmp_path, **files))


def test_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        load(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} has no tokenizer.json, and no other tokenizer that can be read; add the model's tokenizer.json"
    )


def test_sentencepiece_model_that_cannot_be_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.model").write_bytes(b"no such thing")
    monkeypatch.setattr("models.tokenizer.load.find_spec", lambda _: None)
    with pytest.raises(UnsupportedModelError) as raised:
        load(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path} has no tokenizer.json, and its tokenizer.model cannot be converted; add the model's "
        "tokenizer.json, or install the library that reads the other: pip install sentencepiece"
    )


# --- GGUF ------------------------------------------------------------------------------------------------------------


def test_demo_model() -> None:
    assets = gguf_assets(DEMO_MODEL, download=True)
    assert assets is not None
    assert assets.special_tokens["eos_token"] == "<|im_end|>"
    assert assets.bos_token_id == 1
    assert assets.eos_token_ids == [2, 0]  # <|im_end|> and <|endoftext|>
    assert not assets.add_bos_token
    assert assets.chat_template is not None
    assert "message['role']" in assets.chat_template


def test_byte_level_vocabulary_gives_the_originals_ids() -> None:
    converted = convert_gguf_tokenizer(byte_level_metadata(), PATH)
    reference = Reference.from_str(byte_level_json())
    for text in TEXTS:
        assert converted.tokenizer.encode(text).ids == reference.encode(text).ids


@pytest.mark.parametrize("changes", [{"pre": "roberta-bpe"}, {"add_sep_token": True}])
def test_texts_of_encoders_stand_between_special_tokens(changes: dict[str, Any]) -> None:
    converted = convert_gguf_tokenizer(byte_level_metadata(cls_token_id=1, seperator_token_id=2, **changes), PATH)
    words = convert_gguf_tokenizer(byte_level_metadata(), PATH).tokenizer.encode("hello the hen").ids
    assert converted.tokenizer.encode("hello the hen").ids == [1, *words, 2]
    assert not converted.add_bos_token


def test_user_defined_tokens_are_text_taken_whole() -> None:
    metadata = byte_level_metadata()
    metadata["tokenizer.ggml.token_type"][2] = 4
    tokenizer = convert_gguf_tokenizer(metadata, PATH).tokenizer
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode("<|im_start|>").ids == [2]
    assert tokenizer.decode([2], skip_special_tokens=True) == "<|im_start|>"


def test_sentencepiece_merges_by_score() -> None:
    tokenizer = convert_gguf_tokenizer(sentencepiece_metadata(), PATH).tokenizer
    assert tokenizer.encode("the hello é").tokens == ["▁the", "▁hello", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.encode("a</s>the").tokens == ["▁a", "</s>", "▁the"]


def test_sentencepiece_without_a_space_in_front() -> None:
    metadata = {**sentencepiece_metadata(), "tokenizer.ggml.add_space_prefix": False}
    tokenizer = convert_gguf_tokenizer(metadata, PATH).tokenizer
    assert tokenizer.encode("hello the").tokens == ["he", "ll", "o", "▁the"]
    assert tokenizer.decode(tokenizer.encode(" the").ids) == " the"


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"model": "plamo2"}, UnsupportedModelError, "of kind 'plamo2'"),
        ({"model": None}, UnsupportedModelError, "of kind None"),
        ({"pre": "klingon"}, UnsupportedModelError, r"'klingon'.*supported are .*qwen2"),
        ({"merges": None}, CheckpointError, "has no tokenizer.ggml.merges"),
        ({"merges": ["a"]}, CheckpointError, "the merge 'a'"),
        ({"merges": ["h q"]}, CheckpointError, "the merge 'h q'"),
        ({"token_type": [1]}, CheckpointError, "1 token types"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, CheckpointError, "1 tokens more than once"),
        ({"model": "llama"}, CheckpointError, "no score for each"),
    ],
)
def test_metadata_that_cannot_be_used(changes: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        convert_gguf_tokenizer(byte_level_metadata(**changes), PATH)


def test_ends_of_a_gguf_vocabulary(tmp_path: Path) -> None:
    """EOS, EOT and EOM of the metadata, and control tokens that are known to end a turn."""
    metadata = {
        **byte_level_metadata(eos_token_id=1, eot_token_id=4),
        "tokenizer.chat_template": "template",
    }
    path = tmp_path / "m.gguf"
    write_gguf(path, metadata)
    assets = load_tokenizer_assets(ModelFiles(None, (path,), "m"), HFConfig({"eos_token_id": 1}, "m"))
    assert assets.eos_token_ids == [1, 4, 3]  # </s>, <pad> as EOT, <|im_end|>
    assert (assets.bos_token_id, assets.add_bos_token) == (None, False)
    assert assets.chat_template == "template"


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, {}),
        ({"fim_pre": 1, "fim_suf": 2, "fim_mid": 3}, {"prefix": 1, "suffix": 2, "middle": 3}),
        ({"prefix": 1, "suffix": 2, "middle": 3}, {"prefix": 1, "suffix": 2, "middle": 3}),
        ({"prefix": 1, "fim_pre": 4, "suffix": 2}, {"prefix": 4, "suffix": 2}),
        ({"fim_pad": 1, "fim_rep": 2, "fim_sep": 10_000}, {"pad": 1, "repository": 2}),
    ],
)
def test_tokens_for_filling_in_the_middle_that_a_gguf_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, int], expected: dict[str, int]
) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "m.gguf"
    write_gguf(path, byte_level_metadata(**{f"{name}_token_id": token_id for name, token_id in named.items()}))
    for _ in range(2):  # the second time they are read from the cache
        assets = load_tokenizer_assets(ModelFiles(None, (path,), "m"), HFConfig({}, "m"))
        assert assets.fim_ids == expected


def write_gguf(path: Path, metadata: dict[str, Any]) -> None:
    """A GGUF of metadata alone: integers, texts and lists of either."""

    def text(value: str) -> bytes:
        data = value.encode()
        return struct.pack("<Q", len(data)) + data

    def entry(value: Any) -> bytes:
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        if isinstance(value, int):
            return struct.pack("<II", 4, value)
        if isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)

    entries = b"".join(text(key) + entry(value) for key, value in metadata.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(metadata)) + entries)
