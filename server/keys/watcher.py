"""KeysWatcher: reloads a keys file when it changes."""

import asyncio
import logging
import stat
from pathlib import Path

from engine.errors import OptionError
from engine.wording import counted
from server.keys.key import ApiKey
from server.keys.key_file import is_open_to_others, read_keys
from server.keys.ring import KeyRing
from server.metrics.values import Metrics

logger = logging.getLogger(__name__)

_POLL_S = 0.25

_Signature = tuple[int, int, int, int] | None  # of a file: device, inode, size, time of its last change in ns


class KeysWatcher:
    """Checks the keys file four times a second. A changed file is read once two checks in a row find it the same, so
    that a file that is being written is left alone. If a file cannot be used, the previous keys stay."""

    def __init__(self, path: Path, ring: KeyRing, metrics: Metrics) -> None:
        """ring: a ring that already has the keys of the file."""
        self._path = path
        self._ring = ring
        self._metrics = metrics
        self._must_read = False
        self._read = self._seen = _signature(path)
        self._warn_if_open()

    async def run(self) -> None:
        """Check the file until canceled."""
        while True:
            await asyncio.sleep(_POLL_S)
            await self.check()

    def reload(self) -> None:
        """Read the file at the next check, even if it has not changed."""
        self._must_read = True

    async def check(self) -> None:
        """Check the file once, and reload it if it has changed, in a thread, since many keys take seconds to read."""
        signature = _signature(self._path)
        is_stable, self._seen = signature == self._seen, signature
        if not is_stable or (signature == self._read and not self._must_read):
            return
        self._read, self._must_read = signature, False
        try:
            keys = await asyncio.to_thread(_read_file, self._path)
        except OptionError as error:
            logger.error("--api-keys-file: %s; the previous keys stay valid", error)
            self._metrics.add("api_keys_reloads_total", 1, "failed")
            self._metrics.set("api_keys_file_broken", 1)
            return
        self._ring.replace(keys)
        self._metrics.add("api_keys_reloads_total", 1, "loaded")
        self._metrics.set("api_keys_file_broken", 0)
        logger.info("%s from %s", counted(len(keys), "key"), self._path)
        self._warn_if_open()

    def _warn_if_open(self) -> None:
        try:
            is_open = is_open_to_others(self._path)
        except OSError:
            return
        if is_open:
            logger.warning("%s can be read or written by every user of this machine; chmod 600 it", self._path)


def _read_file(path: Path) -> list[ApiKey]:
    """Read the keys. Raises OptionError also for a pipe or a device, which might never end."""
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return read_keys(path)  # which raises the reason
    if not is_regular:
        raise OptionError(f"cannot read {path}: it is not a regular file")
    return read_keys(path)


def _signature(path: Path) -> _Signature:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
