"""A tokenizer of one token a byte with the tokens by which a model fills in the middle."""

import msgspec
from tokenizers import AddedToken, Tokenizer

from engine.protocol import EngineInfo, TokenizerInfo
from tests.helpers.fake_client import byte_tokenizer, engine_info

QWEN = (
    "<|endoftext|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
END, PREFIX, MIDDLE, SUFFIX, PAD, REPO, FILE = range(259, 259 + len(QWEN))  # the ids of these


def fim_tokenizer(texts: tuple[str, ...] = QWEN, *, special: bool = True) -> TokenizerInfo:
    """special: what the vocabulary says of `texts`; Qwen's says that they are not."""
    tokenizer = Tokenizer.from_buffer(byte_tokenizer())
    tokens = [AddedToken(text, special=special, normalized=False) for text in texts]
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(tokens)
    return msgspec.structs.replace(engine_info().tokenizer, tokenizer_json=tokenizer.to_str().encode())


def fim_info(*, special: bool = True, add_bos: bool = False, **changes: object) -> EngineInfo:
    tokenizer = msgspec.structs.replace(fim_tokenizer(special=special), add_bos_token=add_bos)
    return engine_info(tokenizer=tokenizer, vocab_size=300, **changes)
