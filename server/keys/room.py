"""KeyRoom: all that a server knows of its callers, and what goes on for them in the background."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from server.config import ServerConfig
from server.keys.key_file import read_keys
from server.keys.ring import KeyRing
from server.keys.spending import Spending
from server.keys.usage import UsageBook
from server.keys.usage_log import UsageLog
from server.keys.watcher import KeysWatcher
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics
from server.store.database import Database
from server.store.usage_table import UsageTable


class KeyRoom:
    """The keys, and what they have used. One a server."""

    def __init__(self, config: ServerConfig, metrics: Metrics, database: Database) -> None:
        """Raises OptionError for a keys file or usage log that cannot be used."""
        self.spending = Spending()
        self._metrics = metrics
        self._path = None if config.api_keys_file is None else Path(config.api_keys_file)
        self.ring = KeyRing(
            config.api_key,
            None if self._path is None else read_keys(self._path),
            shares_cache=config.share_prefix_cache,
            spending=self.spending,
            metrics=metrics,
        )
        self.usage = UsageBook(UsageTable(database), self.spending, metrics)
        self._watcher = None if self._path is None else KeysWatcher(self._path, self.ring, metrics)
        self._log = None if config.usage_log is None else UsageLog(Path(config.usage_log), metrics)

    def note(self, record: RequestRecord) -> None:
        """Count a request that is over for its key, if it is one that counts."""
        if not record.is_usage:
            return
        self._metrics.count_key_usage(record)
        self.usage.note(record)
        if self._log is not None:
            self._log.note(record)

    @property
    def has_files(self) -> bool:
        """Whether `look_again` has anything to look at."""
        return self._watcher is not None or self._log is not None

    def look_again(self) -> None:
        """Read the keys file, and open the usage log, anew."""
        if self._watcher is not None:
            self._watcher.read_again()
        if self._log is not None:
            self._log.reopen()

    @contextlib.asynccontextmanager
    async def kept_up(self) -> AsyncIterator[None]:
        """Within it the keys follow their file and usage is written; at its end, what was not written yet.

        Raises StorageFailed.
        """
        await self.usage.load()
        work = [self.usage.run()]
        work += [self._watcher.run()] if self._watcher is not None else []
        work += [self._log.run()] if self._log is not None else []
        tasks = [asyncio.create_task(each, name="keys") for each in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.usage.flush()
            if self._log is not None:
                await self._log.close()
