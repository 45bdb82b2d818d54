"""Files of KV blocks: a header that says whose block it is, a checksum, and the block's content.

    magic, fingerprint [16], length of the key [1], key [32, padded], length of the content [8], checksum [4], content

The checksum is CRC-32 over the rest of the header and the content. It finds accidents: torn writes, damaged disks,
files under another's name. A cryptographic hash would protect no better from a user who can write to the folder, since
it could be renewed like any checksum without a key, and takes five times as long as zlib's CRC.
"""

import os
import stat
import struct
import zlib
from pathlib import Path

_MAGIC = b"hrkvblk1"  # changes with the format
_HEADER = struct.Struct("<8s16sB32sQI")
HEADER_BYTES = _HEADER.size
MAX_KEY_BYTES = 32


class BlockFileError(Exception):
    """A file is torn, altered, or not the block that its name says."""


def packed_header(fingerprint: bytes, key: bytes, content: bytes) -> bytes:
    """Return the header of a block's file. fingerprint: 16 bytes."""
    fields = (_MAGIC, fingerprint, len(key), key, len(content))
    return _HEADER.pack(*fields, _checksum(_HEADER.pack(*fields, 0), content))


def read_block(path: Path, fingerprint: bytes, key: bytes, max_bytes: int, used_ns: int) -> bytes:
    """Return the content of a block's file, and record that it was used at `used_ns`, in its time of modification.

    max_bytes: of a content; nothing larger is allocated. Raises OSError if the file cannot be read, BlockFileError if
    it is not this block, whole.
    """
    # A link or a pipe under a block's name is not ours: neither is followed or waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BlockFileError("it is not a file")
        if not HEADER_BYTES <= status.st_size <= HEADER_BYTES + max_bytes:
            raise BlockFileError(f"it has {status.st_size:,} bytes")
        header = _read(descriptor, HEADER_BYTES)
        content = _read(descriptor, status.st_size - HEADER_BYTES)
        *fields, checksum = _HEADER.unpack(header)
        if (fields[0], fields[1], fields[3][: fields[2]]) != (_MAGIC, fingerprint, key):
            raise BlockFileError("it is another block or of another version")
        if fields[4] != len(content) or checksum != _checksum(_HEADER.pack(*fields, 0), content):
            raise BlockFileError("it is torn or altered")
        os.utime(descriptor, ns=(used_ns, used_ns))
    finally:
        os.close(descriptor)
    return content


def write_all(descriptor: int, *parts: bytes) -> None:
    """Write all parts. Raises OSError."""
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(descriptor, view) :]


def _read(descriptor: int, length: int) -> bytes:
    """Read exactly `length` bytes. Raises BlockFileError if there are fewer."""
    data = os.read(descriptor, length)
    while len(data) < length:  # a signal or the system's bound on one read
        piece = os.read(descriptor, length - len(data))
        if not piece:
            raise BlockFileError("it is torn")
        data += piece
    return data


def _checksum(header: bytes, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(header))
