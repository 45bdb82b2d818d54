"""PrefixFiles: named prefixes on disk, beside the blocks of their model."""

import contextlib
import errno
import logging
import os
import secrets
import stat
from pathlib import Path

import msgspec

from engine.protocol import NamedPrefix

logger = logging.getLogger(__name__)

_SUFFIX = ".json"
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class PrefixRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A named prefix, and its sizes by the engine. model: the name of the model or adapter in requests."""

    prefix: NamedPrefix
    model: str
    num_tokens: int
    num_blocks: int
    created_s: int  # since 1970
    used_s: int  # when an operator last used it
    is_pinned: bool


class PrefixFiles:
    """A file NAME.json for each prefix, in the folder with the blocks of one fingerprint.

    All of it is I/O. Other servers of the same user and model share the files. They hold clients' prompts, as the
    blocks do, and are readable by this user alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> dict[str, PrefixRecord]:
        """Return the prefixes by name; unreadable files are left out, with a warning. Raises OSError if the folder is
        not safe."""
        records: dict[str, PrefixRecord] = {}
        if not self._folder.exists():
            return records
        _check_private(self._folder)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=PrefixRecord)
            except FileNotFoundError:  # deleted meanwhile
                continue
            except (OSError, msgspec.DecodeError) as error:
                logger.warning("%s is not used: %s", path, error)
                continue
            if record.prefix.name == path.name.removesuffix(_SUFFIX):
                records[record.prefix.name] = record
        return records

    def write(self, record: PrefixRecord) -> None:
        """Write a prefix, so that readers see all of it or its predecessor. Raises OSError."""
        _check_private(self._folder.parent)
        self._folder.mkdir(mode=0o700, exist_ok=True)  # an operator may have deleted it
        _check_private(self._folder)
        partial = self._folder / f"{secrets.token_hex(8)}.new"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(record))
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self._path(record.prefix.name))
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise

    def delete(self, name: str) -> None:
        """Delete a prefix's file. Raises OSError, but not for a missing file."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"


def _check_private(folder: Path) -> None:
    """Raise OSError if the folder is missing, is a link, or can be written by other users."""
    status = folder.lstat()
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not is_own or status.st_mode & _WRITTEN_BY_OTHERS:
        raise OSError(errno.EPERM, "other users may write to it", str(folder))
