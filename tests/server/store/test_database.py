"""The database: what was acknowledged survives a kill, what was deleted is nowhere, what cannot be used says so."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import OptionError, StartupError
from server.errors import StorageFailed
from server.store.database import MIGRATIONS
from server.store.entries import Entries, Entry
from server.store.opening import open_database
from tests.helpers.repository import ROOT

SECRET = "a secret that nobody wrote"


def _entries(database: object) -> Entries:
    return Entries(database, max_bytes=2**30, max_age_s=1e9)  # type: ignore[arg-type]


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.server.store.writer", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline().strip() for _ in range(300)]
    writer.send_signal(signal.SIGKILL)
    acknowledged += writer.stdout.read().split()  # what it wrote until the signal came
    writer.wait()
    with open_database(folder) as database:
        entries = _entries(database)
        for number, entry_id in enumerate(acknowledged):
            entry = await entries.get("t", entry_id, "")
            assert entry is not None, entry_id
            assert entry.body == {"n": number, "text": "x" * (number * 37 % 5000)}
            assert await entries.items(entry_id) == [{"id": f"i{number}", "n": number}]
        await entries.check()


def _bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_what_is_deleted_is_in_no_file(tmp_path: Path) -> None:
    with open_database(tmp_path) as database:
        entries = _entries(database)
        for i in range(50):
            await entries.put(Entry(f"e{i}", "t", "", 1, "", {"t": f"{SECRET} {i} " * 50}), [("in", {"id": f"i{i}"})])
        await entries.put(Entry("c", "t", "", 1, "", {}), [("in", {"id": "item", "t": SECRET})])
        assert SECRET.encode() in _bytes_of(tmp_path)
        for i in range(50):
            assert await entries.delete("t", f"e{i}", "")
        assert await entries.delete_item("c", "item")
        assert SECRET.encode() not in _bytes_of(tmp_path)
        assert "headrace.sqlite3-wal" in {path.name for path in tmp_path.iterdir()}
    assert SECRET.encode() not in _bytes_of(tmp_path)


def test_folder_and_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    old_mask = os.umask(0)
    try:
        with open_database(folder):
            modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    finally:
        os.umask(old_mask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert modes == dict.fromkeys(
        ["headrace.lock", "headrace.sqlite3", "headrace.sqlite3-wal", "headrace.sqlite3-shm"], 0o600
    )


def test_a_second_server_is_told_who_has_the_folder(tmp_path: Path) -> None:
    with (
        open_database(tmp_path),
        pytest.raises(StartupError, match=rf"another server uses .* \(process {os.getpid()}\)"),
        open_database(tmp_path),
    ):
        pass
    with open_database(tmp_path):  # and afterwards it is free
        pass


def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"--data-dir .*file cannot be used"), open_database(tmp_path / "file"):
        pass
    (tmp_path / "headrace.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(OptionError, match="not a database; give another folder, or move"), open_database(tmp_path):
        pass


def test_an_older_schema_is_brought_up_to_date_and_a_newer_one_refused(tmp_path: Path) -> None:
    with open_database(tmp_path):
        pass
    newer = (*MIGRATIONS, ("CREATE TABLE later (id TEXT)", "INSERT INTO later VALUES ('a')"))
    for _ in range(2):
        with open_database(tmp_path, newer):
            pass
    connection = sqlite3.connect(tmp_path / "headrace.sqlite3")
    assert connection.execute("SELECT * FROM later").fetchall() == [("a",)]
    connection.close()
    with pytest.raises(StartupError, match="written by a newer headrace"), open_database(tmp_path):
        pass


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    with open_database(tmp_path):
        pass
    broken = (*MIGRATIONS, ("CREATE TABLE later (id TEXT)", "NONSENSE"))
    with pytest.raises(OptionError, match="NONSENSE"), open_database(tmp_path, broken):
        pass
    with open_database(tmp_path, (*MIGRATIONS, ("CREATE TABLE later (id TEXT)",))):
        pass


async def test_work_that_fails_changes_nothing(tmp_path: Path) -> None:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM entries")
        connection.execute("NONSENSE")

    with open_database(tmp_path) as database:
        entries = _entries(database)
        await entries.put(Entry("e", "t", "", 1, "", {}))
        with pytest.raises(StorageFailed, match="NONSENSE"):
            await database.run(work)
        assert await entries.get("t", "e", "") is not None
