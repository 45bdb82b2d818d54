"""BlockFolder: the folder in which all engines of a user keep KV blocks, and one fingerprint's part of it.

    DIR/FINGERPRINT/FIRST TWO DIGITS OF KEY/KEY.kv      a block
    DIR/FINGERPRINT/RANDOM.part                         a block that is being written, locked by its writer

One file for a block, since blocks come and go one by one and other processes delete them at any time: the file system
does the bookkeeping, and nothing has to be compacted. A file's time of modification is when its block was last used.
"""

import contextlib
import fcntl
import heapq
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from engine.kv_tiers.block_file import HEADER_BYTES, MAX_KEY_BYTES, packed_header, read_block, write_all
from engine.kv_tiers.private_folder import check_private, private_folder

_SUFFIX = ".kv"
_FINGERPRINT_NAME = re.compile(r"[0-9a-f]{32}")
_PREFIX_NAME = re.compile(r"[0-9a-f]{2}")
_BLOCK_NAME = re.compile(rf"(?:[0-9a-f]{{2}}){{1,{MAX_KEY_BYTES}}}{re.escape(_SUFFIX)}")
_PART_NAME = re.compile(r"[0-9a-f]{16}\.part")
_DISK_FRACTION = 4  # default bound: a quarter of the disk's free space and of the blocks there together
_MAX_DEFAULT_BYTES = 32 << 30
# Ages from which a partial file may be left over: its writer needs a moment to lock it; without locks, age alone tells.
_UNLOCKED_S, _LEFT_OVER_S = 10.0, 3600.0


class StoredBlock(NamedTuple):
    """A block's file of any fingerprint, as a scan finds it. Sorts by last use."""

    used_ns: int
    num_bytes: int
    path: str


class Survey(NamedTuple):
    """All files of a folder. own: the keys of one fingerprint's blocks, with the bytes of their files."""

    num_bytes: int
    own: dict[bytes, int]


class BlockFolder:
    """Files of blocks with one fingerprint, in a folder that other processes use too.

    All of it is I/O, and any thread may call it. Files may appear and vanish at any time, as other processes write and
    evict blocks, and operators delete them. Files with other names than those above are others', and left alone.
    """

    def __init__(self, root: Path, fingerprint: str, max_block_bytes: int) -> None:
        """Create the folder if it is missing. fingerprint: 32 hexadecimal digits.

        Raises OptionError if the folder cannot be used, or could be written by other users.
        """
        self.root = private_folder(root)
        self.folder = private_folder(self.root / fingerprint)
        self._fingerprint = bytes.fromhex(fingerprint)
        self.max_block_bytes = max_block_bytes

    def default_max_bytes(self) -> int:
        """Return the bound for all blocks, of all fingerprints, if the user gave none. Raises OSError."""
        stored = sum(block.num_bytes for folder in _fingerprints(self.root) for block in _blocks_below(folder))
        return min((shutil.disk_usage(self.root).free + stored) // _DISK_FRACTION, _MAX_DEFAULT_BYTES)

    def keys(self) -> dict[bytes, int]:
        """Return the keys of this fingerprint's blocks, with the bytes of their files."""
        return _by_key(_blocks_below(self.folder))

    def survey(self, max_bytes: int, target_bytes: int) -> Survey:
        """List all files; if they have more than `max_bytes`, delete the files that were used longest ago, of
        any fingerprint, until they have at most `target_bytes`. Raises OSError if the folder is missing or not safe."""
        check_private(self.root)
        # Sorted in pieces, since one sort of everything would hold the interpreter's lock, and a step, for long.
        pieces = [sorted(_blocks_in(prefix)) for folder in _fingerprints(self.root) for prefix in _prefixes(folder)]
        own_start = f"{self.folder}{os.sep}"
        own = _by_key(block for piece in pieces for block in piece if block.path.startswith(own_start))
        total = sum(block.num_bytes for piece in pieces for block in piece)
        for block in heapq.merge(*pieces) if total > max_bytes else ():
            if total <= target_bytes:
                break
            try:
                os.unlink(block.path)
            except FileNotFoundError:
                pass
            except OSError:
                continue
            total -= block.num_bytes
            if block.path.startswith(own_start):
                own.pop(_key_of(block), None)
        return Survey(total, own)

    def remove_left_over(self) -> None:
        """Delete partial files whose writers have died."""
        for folder in _fingerprints(self.root):
            for entry in _entries(folder):
                if _PART_NAME.fullmatch(entry.name):
                    with contextlib.suppress(OSError):
                        _remove_if_unlocked(entry.path)

    def read(self, key: bytes, used_ns: int) -> bytes:
        """Return a block's content, and record its use. Raises OSError and BlockFileError."""
        check_private(self.root)
        return read_block(self.path(key), self._fingerprint, key, self.max_block_bytes, used_ns)

    def write(self, key: bytes, content: bytes, used_ns: int) -> int:
        """Write a block's file, so that readers see all of it or nothing; return its bytes. Raises OSError.

        The file is not synchronized: what a loss of power tears is found by the checksum.
        """
        check_private(self.root)
        path = self.path(key)
        partial = self.folder / f"{secrets.token_hex(8)}.part"
        self.folder.mkdir(mode=0o700, exist_ok=True)  # an operator may have deleted it
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_all(descriptor, packed_header(self._fingerprint, key, content), content)
            os.utime(descriptor, ns=(used_ns, used_ns))
            partial.rename(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return HEADER_BYTES + len(content)

    def touch(self, key: bytes, used_ns: int) -> None:
        """Record that a block was used. Raises OSError."""
        os.utime(self.path(key), ns=(used_ns, used_ns), follow_symlinks=False)

    def remove(self, key: bytes) -> None:
        """Delete a block. Raises OSError, but not for a missing file."""
        self.path(key).unlink(missing_ok=True)

    def path(self, key: bytes) -> Path:
        return self.folder / key[:1].hex() / f"{key.hex()}{_SUFFIX}"


def _fingerprints(root: Path) -> Iterator[str]:
    """Yield the folders of all fingerprints."""
    return (entry.path for entry in _entries(root) if _FINGERPRINT_NAME.fullmatch(entry.name))


def _blocks_below(folder: Path | str) -> Iterator[StoredBlock]:
    """Yield the blocks of one fingerprint's folder."""
    for prefix in _prefixes(folder):
        yield from _blocks_in(prefix)


def _prefixes(folder: Path | str) -> Iterator[str]:
    """Yield the folders with blocks in one fingerprint's folder."""
    return (entry.path for entry in _entries(folder) if _PREFIX_NAME.fullmatch(entry.name))


def _blocks_in(prefix: str) -> Iterator[StoredBlock]:
    digits = os.path.basename(prefix)
    for entry in _entries(prefix):
        if entry.name.startswith(digits) and _BLOCK_NAME.fullmatch(entry.name):
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                yield StoredBlock(status.st_mtime_ns, status.st_size, entry.path)


def _by_key(blocks: Iterable[StoredBlock]) -> dict[bytes, int]:
    return {_key_of(block): block.num_bytes for block in blocks}


def _key_of(block: StoredBlock) -> bytes:
    return bytes.fromhex(os.path.basename(block.path).removesuffix(_SUFFIX))


def _entries(folder: Path | str) -> Iterator["os.DirEntry[str]"]:
    """Yield the entries of a folder; none if it has vanished, cannot be read, or is a file or a link."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return
        with os.scandir(folder) as entries:
            yield from entries


def _remove_if_unlocked(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        age_s = time.time() - os.fstat(descriptor).st_mtime
        if age_s < _UNLOCKED_S:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            if age_s < _LEFT_OVER_S:
                return
        os.unlink(path)
    finally:
        os.close(descriptor)
