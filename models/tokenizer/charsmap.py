"""Validation of a SentencePiece model's table of character replacements (`precompiled_charsmap`).

The table consists of the trie's size in bytes, a double-array trie of little-endian u32 units with the texts to replace
as keys, and the replacements, each ending with a 0. A unit without bit 31 is a node. Bits 10 to 30 are its offset,
times 256 if bit 9 is set. The units of its children are at (index ^ offset ^ byte). If bit 8 is set, its value is at
(index ^ offset): the position where the replacement begins (darts-clone). `tokenizers` does not check these numbers and
panics if they are wrong.
"""

import base64
from pathlib import Path

import numpy as np

from models.checkpoints.gguf.array import array_values
from models.config.hf_config import quote_value
from models.errors import CheckpointError

_HEADER_BYTES = 4
_IS_VALUE, _WIDE, _HAS_VALUE = 1 << 31, 1 << 9, 1 << 8


def gguf_charsmap(value: object, path: Path) -> bytes:
    """Decode and check a GGUF file's tokenizer.ggml.precompiled_charsmap; return its bytes, b"" for None.

    value: the field, a list of bytes, signed or not, or of characters in base64, as some converters wrote it. path: the
    file's path, for messages. Raises CheckpointError for anything else, and for a table that points outside itself.
    """
    if value is None:
        return b""
    subject = f"{path}: tokenizer.ggml.precompiled_charsmap"
    items = array_values(value)
    if items is None:
        raise _damaged(subject, f"is {quote_value(value)}, which is not a list of bytes")
    try:
        if items and isinstance(items[0], str):
            table = base64.b64decode("".join(items), validate=True)
        else:
            table = bytes(item & 0xFF for item in items)
    except (TypeError, ValueError):
        raise _damaged(subject, "is not a list of bytes") from None
    if table:
        longest_replacement(table, subject)
    return table


def longest_replacement(table: bytes, subject: str) -> int:
    """Check a table of character replacements; return the length of its longest replacement in characters.

    subject: the table's name in messages. Raises CheckpointError for a table that points outside itself.
    """
    size = int.from_bytes(table[:_HEADER_BYTES], "little")
    end = _HEADER_BYTES + size
    if len(table) < _HEADER_BYTES or size == 0 or size % 4 or end > len(table):
        raise _damaged(subject, "is truncated")
    units = np.frombuffer(table, "<u4", offset=_HEADER_BYTES, count=size // 4).astype(np.int64)
    is_node = (units & _IS_VALUE) == 0
    children = np.arange(len(units)) ^ ((units >> 10) << np.where(units & _WIDE, 8, 0))
    if not is_node[0] or ((children[is_node] | 0xFF) >= len(units)).any():
        raise _damaged(subject, "points outside itself")
    replacements = np.frombuffer(table, np.uint8, offset=end)
    starts = units[children[is_node & ((units & _HAS_VALUE) != 0)]] & (_IS_VALUE - 1)
    if (starts >= len(replacements)).any():
        raise _damaged(subject, "points outside itself")
    try:
        replacements.tobytes().decode()
    except UnicodeDecodeError:
        raise _damaged(subject, "has replacements that are not UTF-8") from None
    if ((replacements[starts] & 0xC0) == 0x80).any():
        raise _damaged(subject, "points into the middle of a character")
    texts = replacements.tobytes().decode().split("\0")
    return max(map(len, texts))


def _damaged(subject: str, how: str) -> CheckpointError:
    return CheckpointError(f"{subject} {how}; fetch the file again")
