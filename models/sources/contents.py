"""Digest of a model's files by samples of their contents: quick, and the same for every copy."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

_HEAD_BYTES = 1 << 20  # names, shapes and settings are here, and a GGUF file's vocabulary
_NUM_SAMPLES = 256
_SAMPLE_BYTES = 4096


def contents_digest(paths: Iterable[Path]) -> str:
    """Return a digest (32 hexadecimal digits) of files, in this order and whatever their names.

    Of a large file only the size, the beginning and evenly spaced samples are read, some 2 MiB: another training or
    another quantization changes these, a single changed bit may not. Raises OSError if a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{size}\0".encode())
        _add_samples(digest, path, size)
    return digest.hexdigest()


def _add_samples(digest: hashlib.blake2b, path: Path, size: int) -> None:
    with path.open("rb", buffering=0) as file:
        digest.update(os.pread(file.fileno(), _HEAD_BYTES, 0))
        if (rest := size - _HEAD_BYTES) <= 0:
            return
        for index in range(1, _NUM_SAMPLES + 1):  # the last one ends with the file
            end = _HEAD_BYTES + rest * index // _NUM_SAMPLES
            digest.update(os.pread(file.fileno(), _SAMPLE_BYTES, max(_HEAD_BYTES, end - _SAMPLE_BYTES)))
