"""KeyManager: a server's keys and their usage, and the tasks that reload keys and store usage."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from server.config.server import ServerConfig
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


class KeyManager:
    """Holds the keys of one server and their usage, and runs the tasks that reload and store them."""

    def __init__(
        self,
        config: ServerConfig,
        metrics: Metrics,
        database: Database,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Load the keys. aliases: further names of models, which a key may list, with the model's own name. Raises
        OptionError if the keys file or the usage log cannot be used."""
        self.spending = Spending()
        self._metrics = metrics
        self._path = None if config.api_keys_file is None else Path(config.api_keys_file)
        self.ring = KeyRing(
            config.api_key,
            None if self._path is None else read_keys(self._path),
            shares_cache=config.share_prefix_cache,
            spending=self.spending,
            metrics=metrics,
            aliases=aliases or {},
        )
        self.usage = UsageBook(UsageTable(database), self.spending, metrics)
        self._watcher = None if self._path is None else KeysWatcher(self._path, self.ring, metrics)
        self._log = None if config.usage_log is None else UsageLog(Path(config.usage_log), metrics)

    def count(self, record: RequestRecord) -> None:
        """Count a finished request in its key's usage, unless its route does not count."""
        if not record.is_usage:
            return
        self._metrics.count_key_usage(record)
        self.usage.add(record)
        if self._log is not None:
            self._log.add(record)

    @property
    def has_files(self) -> bool:
        """Whether there is a keys file or a usage log to reload."""
        return self._watcher is not None or self._log is not None

    def reload(self) -> None:
        """Read the keys file again, and reopen the usage log."""
        if self._watcher is not None:
            self._watcher.reload()
        if self._log is not None:
            self._log.reopen()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reload changed keys and store usage while the context is open. Raises StorageFailed at its start."""
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
