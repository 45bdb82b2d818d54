"""The background tasks for a server's keys, from the server's start to its end."""

import asyncio
from pathlib import Path

import pytest

from server.config.server import ServerConfig
from server.errors import BudgetSpent, InvalidApiKey
from server.keys.manager import KeyManager
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics
from server.store.database import Database
from server.store.opening import open_database
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.keys import entry, secret, write_keys

pytestmark = pytest.mark.fast


def _manager(folder: Path, database: Database) -> KeyManager:
    path = folder / "keys.json"
    if not path.exists():
        write_keys(path, entry("ann", budget_tokens=100))
    config = ServerConfig(api_keys_file=str(path), usage_log=str(folder / "usage.jsonl"))
    return KeyManager(config, Metrics("m"), database)


def _is_taken(manager: KeyManager, name: str) -> bool:
    try:
        return manager.ring.find(secret(name).encode()).name == name
    except InvalidApiKey:
        return False


def _use(manager: KeyManager, num_tokens: int) -> None:
    """A request of ann's, from its reservation to its record."""
    account = manager.ring.find(secret("ann").encode()).account
    assert account is not None
    account.settle(account.reserve(num_tokens - 1, 1, is_open_ended=False), num_tokens)
    record = RequestRecord("id", "POST", manager.count)
    record.key_name, record.is_usage, record.status = "ann", True, 200
    record.counted_prompt_tokens, record.output_tokens = num_tokens - 1, 1
    record.release()


async def test_a_budget_and_a_log_go_on_where_the_last_server_ended(tmp_path: Path) -> None:
    for _ in range(2):
        with open_database(tmp_path) as database:
            manager = _manager(tmp_path, database)
            async with manager.running():
                _use(manager, 40)
    assert len((tmp_path / "usage.jsonl").read_text().splitlines()) == 2
    with open_database(tmp_path) as database:
        manager = _manager(tmp_path, database)
        async with manager.running():
            with pytest.raises(BudgetSpent, match="has 20 of its 100"):
                _use(manager, 40)
            _use(manager, 20)


async def test_a_file_is_followed_while_the_server_runs_and_no_longer(tmp_path: Path) -> None:
    with open_database(tmp_path) as database:
        manager = _manager(tmp_path, database)
        async with manager.running():
            write_keys(tmp_path / "keys.json", entry("ben"))
            async with asyncio.timeout(DEADLINE_S):
                while not _is_taken(manager, "ben"):
                    await asyncio.sleep(0.01)
            assert not _is_taken(manager, "ann")
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "keys"]


async def test_a_request_that_does_not_count_leaves_nothing(tmp_path: Path) -> None:
    with open_database(tmp_path) as database:
        manager = _manager(tmp_path, database)
        async with manager.running():
            RequestRecord("id", "GET", manager.count).release()
            assert await manager.usage.read(0, 2**40) == []
    assert (tmp_path / "usage.jsonl").read_text() == ""
