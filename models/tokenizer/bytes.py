"""byte_tokenizer: a tokenizer for random weights, for configurations that come without one."""

import json
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from models.config.hf_config import HFConfig
from models.errors import CheckpointError
from models.tokenizer.assets import TokenizerAssets

_NUM_BYTES = 256
_STAGE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def byte_tokenizer(vocab_size: int, config: HFConfig) -> TokenizerAssets:
    """Return a tokenizer whose token i is the byte i, and above 255 the word " i", which no text is encoded as.

    Raises CheckpointError if the vocabulary is too small for all bytes.
    """
    if vocab_size < _NUM_BYTES:
        raise CheckpointError(
            f"{config.source} has a vocabulary of {vocab_size:,} tokens, too few for a tokenizer of {_NUM_BYTES} "
            "bytes; add the model's tokenizer.json to the folder"
        )
    vocabulary = {text: index for index, text in enumerate(_byte_texts())}
    vocabulary |= {f"Ġ{index}": index for index in range(_NUM_BYTES, vocab_size)}  # Ġ is a space
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": _STAGE,
        "post_processor": None,
        "decoder": _STAGE,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    return TokenizerAssets(
        tokenizer_json=json.dumps(tokenizer, ensure_ascii=False).encode(),
        chat_template=None,
        special_tokens={},
        bos_token_id=None,
        eos_token_ids=config.token_ids("eos_token_id"),
        add_bos_token=False,
    )


def _byte_texts() -> list[str]:
    """Return the characters that stand for bytes in byte-level tokenizers, in the order of the bytes."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(_NUM_BYTES) if byte not in shown]
    texts = {byte: chr(_NUM_BYTES + place) for place, byte in enumerate(hidden)}
    assert set(ByteLevel.alphabet()) == {*map(chr, shown), *texts.values()}
    return [texts.get(byte, chr(byte)) for byte in range(_NUM_BYTES)]
