"""Cache of converted GGUF tokenizers: converting a large vocabulary takes as long as loading its model.

A file has a line of JSON with all assets except the tokenizer's own JSON, which fills the rest of the file. The file's
name is a hash of its sources. The line has a hash of the tokenizer's JSON, so that a truncated file is made again.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from models.checkpoints.gguf.array import GGUFArray
from models.system.cache_folder import cache_folder
from models.tokenizer import (
    charsmap,
    gguf,
    gguf_bpe,
    gguf_pretokenizers,
    gguf_rwkv,
    gguf_templates,
    gguf_unigram,
    gguf_wordpiece,
)
from models.tokenizer.assets import TokenizerAssets

_CODE = (charsmap, gguf, gguf_bpe, gguf_pretokenizers, gguf_rwkv, gguf_templates, gguf_unigram, gguf_wordpiece)
_MAX_FILES = 16  # a few megabytes each; the least recently written are removed


def gguf_key(metadata: Mapping[str, Any], eos_token_ids: list[int]) -> str:
    """Return the cache key: a hash of the tokenizer metadata, the EOS ids, this code and the tokenizers version."""
    digest = hashlib.blake2b(digest_size=16)
    for module in _CODE:
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(f"{tokenizers.__version__} {eos_token_ids}".encode())
    for key in sorted(key for key in metadata if key.startswith("tokenizer.")):
        value = metadata[key]
        digest.update(f"\0{key}\0{len(value) if isinstance(value, GGUFArray) else 1}\0".encode())
        digest.update(value.data if isinstance(value, GGUFArray) else repr(value).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def read_assets(key: str) -> TokenizerAssets | None:
    """Return the assets cached under `key`; None if there are none, or the file is damaged."""
    try:
        line, _, tokenizer_json = _path(key).read_bytes().partition(b"\n")
        fields = json.loads(line)
        if fields.pop("digest") != _digest(tokenizer_json):
            return None
        return TokenizerAssets(tokenizer_json=tokenizer_json, **fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def save_assets(key: str, assets: TokenizerAssets) -> None:
    """Cache assets under `key`. Ignores failures: the next start converts the vocabulary again."""
    fields = dataclasses.asdict(assets)
    tokenizer_json = fields.pop("tokenizer_json")
    fields["digest"] = _digest(tokenizer_json)
    path = _path(key)
    with contextlib.suppress(OSError):
        write_cached(path, json.dumps(fields).encode() + b"\n" + tokenizer_json)
        for old in sorted(path.parent.glob("gguf-*"), key=lambda file: -file.stat().st_mtime)[_MAX_FILES:]:
            old.unlink(missing_ok=True)


def write_cached(path: Path, content: bytes) -> None:
    """Write a file into the cache atomically. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


def _path(key: str) -> Path:
    return cache_folder() / "tokenizers" / f"gguf-{key}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
