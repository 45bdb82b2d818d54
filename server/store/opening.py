"""open_store: the entries that a server's options ask for."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from engine.child_processes.fault_plan import FaultPlan
from server.config.server import ServerConfig
from server.store.database import Database, memory_database, open_database
from server.store.entries import Entries


@contextlib.contextmanager
def open_store(config: ServerConfig, faults: FaultPlan | None = None) -> Iterator[Entries]:
    """Those in --data-dir, or in memory without one; closed with the context. Raises StartupError or OptionError.

    faults: to inject.
    """
    if config.data_dir is None:
        database = memory_database(faults)
        try:
            yield entries_in(database, config)
        finally:
            database.close()
        return
    with open_database(Path(config.data_dir), faults=faults) as database:
        yield entries_in(database, config)


def entries_in(database: Database, config: ServerConfig) -> Entries:
    return Entries(database, max_bytes=config.store_max_bytes, max_age_s=config.store_max_age)
