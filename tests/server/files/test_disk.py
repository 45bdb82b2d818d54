"""The disk of a real folder."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.files.disk import Disk, FolderDisk, TemporaryDisk

pytestmark = pytest.mark.fast


@pytest.fixture(params=["folder", "temporary"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    makers: dict[str, Callable[[], Disk]] = {
        "folder": lambda: FolderDisk(tmp_path / "files"),
        "temporary": TemporaryDisk,
    }
    return makers[request.param]()


def test_what_is_written_is_read(disk: Disk) -> None:
    assert disk.names() == []
    disk.create("a")
    disk.write("a", 0, b"hello")
    disk.write("a", 3, b"p me")
    disk.create("a")  # which changes nothing
    disk.sync("a")
    disk.sync_names()
    assert (disk.names(), disk.size("a"), disk.read("a", 0, 100)) == (["a"], 7, b"help me")
    disk.truncate("a", 4)
    assert disk.read("a", 1, 100) == b"elp"
    disk.remove("a")
    disk.remove("a")
    assert disk.names() == []


def test_files_are_for_their_owner_alone(disk: Disk) -> None:
    old_mask = os.umask(0)
    try:
        disk.create("a")
    finally:
        os.umask(old_mask)
    path = disk.path("a")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_temporary_disk_leaves_nothing() -> None:
    disk = TemporaryDisk()
    disk.create("a")
    folder = disk.path("a").parent
    assert folder.exists()
    del disk
    assert not folder.exists()


def test_threads_that_are_the_first_at_once_share_one_folder(disk: Disk) -> None:
    together = threading.Barrier(8)

    def create(name: str) -> None:
        together.wait()
        disk.create(name)
        disk.write(name, 0, b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, "abcdefgh"))
    assert sorted(disk.names()) == list("abcdefgh")
