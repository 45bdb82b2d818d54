"""PrefixFiles: named prefixes on disk, beside the blocks of their model."""

import contextlib
import errno
import logging
import os
import secrets
import stat
from pathlib import Path

import msgspec

from engine.kv_tiers.private_folder import WRITTEN_BY_OTHERS, check_private
from engine.protocol import NamedPrefix

logger = logging.getLogger(__name__)

_SUFFIX = ".json"
_MAX_BYTES = 64 << 20  # more than any prompt's token ids


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

    def __init__(self, folder: Path, vocab_size: int) -> None:
        """vocab_size: of the model; files with other token ids are not used."""
        self.folder = folder
        self._vocab_size = vocab_size
        self._warned: set[Path] = set()

    def read(self) -> dict[str, PrefixRecord]:
        """Return the prefixes by name; unreadable files are left out with a warning, and copies under other names
        without one. Raises OSError if the folder is not safe."""
        records: dict[str, PrefixRecord] = {}
        if not self.folder.exists():
            return records
        check_private(self.folder)
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            try:
                record = self._record(path)
            except FileNotFoundError:  # deleted meanwhile
                continue
            except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
                if path not in self._warned:
                    logger.warning("%s is not used: %s", path, error)
                    self._warned.add(path)
                continue
            if record.prefix.name == path.name.removesuffix(_SUFFIX):
                records[record.prefix.name] = record
        return records

    def _record(self, path: Path) -> PrefixRecord:
        """Read a file. Raises OSError, and ValueError for contents that no server wrote."""
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            is_own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
            if not is_own or status.st_mode & WRITTEN_BY_OTHERS:
                raise OSError(errno.EPERM, "it is not a file that this user alone can write")
            if status.st_size > _MAX_BYTES:
                raise ValueError(f"it has {status.st_size:,} bytes; the limit is {_MAX_BYTES:,}")
            record = msgspec.json.decode(file.read(), type=PrefixRecord)
        if not all(0 <= token_id < self._vocab_size for token_id in record.prefix.prompt_ids):
            raise ValueError(f"it has token ids that are not below {self._vocab_size:,}, the size of the vocabulary")
        return record

    def write(self, record: PrefixRecord) -> None:
        """Write a prefix, so that readers see all of it or its predecessor. Raises OSError."""
        check_private(self.folder.parent)
        self.folder.mkdir(mode=0o700, exist_ok=True)  # an operator may have deleted it
        check_private(self.folder)
        partial = self.folder / f"{secrets.token_hex(8)}.part"  # as blocks', so that what a crash leaves is removed
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
        return self.folder / f"{name}{_SUFFIX}"
