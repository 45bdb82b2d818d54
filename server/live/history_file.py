"""HistoryFile: keeps the history of the last day in --data-dir, for the next server."""

import asyncio
import logging
import os
from pathlib import Path

import msgspec

from server.live.history import History, KeptHistory

logger = logging.getLogger(__name__)

_NAME = "history.json"
_PRIVATE = 0o600
_INTERVAL_S = 10.0
_decode = msgspec.json.Decoder(KeptHistory).decode


class HistoryFile:
    """File with a server's history. A server that is killed loses at most the last ten seconds."""

    def __init__(self, history: History, folder: Path) -> None:
        """folder: used by no other server."""
        self._history = history
        self._path = folder / _NAME
        self._has_failed = False

    def load(self) -> None:
        """Add the history of the last server, if there is one that can be read. Call this before anything is
        counted."""
        try:
            self._history.resume(_decode(self._path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            logger.warning("the dashboard's history in %s cannot be read and begins anew: %s", self._path, error)

    async def keep(self, interval_s: float = _INTERVAL_S) -> None:
        """Write the file at intervals, until canceled; then write that the server was stopped."""
        writing: asyncio.Future[None] | None = None
        try:
            while True:
                data = msgspec.json.encode(self._history.kept(has_stopped=False))
                writing = asyncio.ensure_future(asyncio.to_thread(self._write, data))
                await asyncio.shield(writing)
                await asyncio.sleep(interval_s)
        finally:
            if writing is not None:
                await writing  # this task was canceled but its thread was not, and would write over the last state
            self._write(msgspec.json.encode(self._history.kept(has_stopped=True)))

    def _write(self, data: bytes) -> None:
        """Replace the file. An error is logged, once until a write succeeds."""
        beside = self._path.with_suffix(".new")
        try:
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _PRIVATE), "wb") as file:
                file.write(data)
            beside.replace(self._path)
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                logger.warning("the dashboard's history cannot be kept in %s: %s", self._path, error.strerror)
            self._has_failed = True
