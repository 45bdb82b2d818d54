"""Locks on files: one holder at a time, on the file that other processes see."""

import fcntl
import threading
from pathlib import Path

import pytest

from models.system.files import exclusive_lock, is_locked
from tests.helpers.deadline import DEADLINE_S

pytestmark = pytest.mark.fast


def test_a_lock_is_taken_on_the_file_that_others_see(tmp_path: Path) -> None:
    """A process that waited on a lock file must not use it once the file is removed: the next one makes a new file."""
    path = tmp_path / "x.lock"
    waiting, release, inodes = threading.Event(), threading.Event(), list[int]()

    def wait_for_lock() -> None:
        with exclusive_lock(path, waiting.set):
            inodes.append(path.stat().st_ino)
            release.wait(DEADLINE_S)

    with exclusive_lock(path, lambda: None):
        waiter = threading.Thread(target=wait_for_lock)
        waiter.start()
        assert waiting.wait(DEADLINE_S)
    while not inodes:
        waiter.join(0.01)
        assert waiter.is_alive()
    with path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    release.set()
    waiter.join(DEADLINE_S)
    assert not path.exists()


def test_who_looks_sees_whether_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert not is_locked(path)
    with exclusive_lock(path, lambda: None):
        assert is_locked(path)
    assert not is_locked(path)
