"""DiskTier: a fault of the disk is a miss, one warning and a count; never a wrong block or an exception."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import OptionError
from engine.kv_tiers.block_file import HEADER_BYTES
from engine.kv_tiers.block_folder import BlockFolder
from engine.kv_tiers.disk import DiskTier
from tests.helpers.disk_tier import BLOCK_BYTES, ONE, OTHER, blocks, content_of, key_of, read, settle, stored


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "kv"


@pytest.fixture
def tier(root: Path) -> Iterator[DiskTier]:
    """A tier with the blocks 1 and 2 on disk."""
    tier = open_tier(root)
    tier.write(blocks(1, 2))
    settle(tier)
    yield tier
    tier.close(30)


def open_tier(root: Path, fingerprint: str = ONE) -> DiskTier:
    return DiskTier(BlockFolder(root, fingerprint, BLOCK_BYTES), 1 << 20)


def path_of(tier: DiskTier, number: int) -> Path:
    return tier._folder.path(key_of(number))


def rewrite(change: Callable[[bytes], bytes]) -> Callable[[DiskTier], None]:
    def damage(tier: DiskTier) -> None:
        path = path_of(tier, 1)
        path.write_bytes(change(path.read_bytes()))

    return damage


def flipped(position: int) -> Callable[[DiskTier], None]:
    return rewrite(lambda data: data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])


def swap_blocks(tier: DiskTier) -> None:
    shutil.copyfile(path_of(tier, 2), path_of(tier, 1))


def take_from_another_model(tier: DiskTier) -> None:
    other = open_tier(tier._folder.root, OTHER)
    other.write(blocks(1))
    settle(other)
    shutil.copyfile(path_of(other, 1), path_of(tier, 1))
    other.close(30)


def make_sparse(tier: DiskTier) -> None:
    os.truncate(path_of(tier, 1), 1 << 40)


def make_pipe(tier: DiskTier) -> None:
    path_of(tier, 1).unlink()
    os.mkfifo(path_of(tier, 1))


def make_link(tier: DiskTier) -> None:
    path_of(tier, 1).rename(path_of(tier, 1).with_suffix(".real"))
    path_of(tier, 1).symlink_to(path_of(tier, 1).with_suffix(".real"))


def make_folder(tier: DiskTier) -> None:
    path_of(tier, 1).unlink()
    path_of(tier, 1).mkdir()


DAMAGES: dict[str, Callable[[DiskTier], None]] = {
    "empty": rewrite(lambda _: b""),
    "part of a header": rewrite(lambda data: data[: HEADER_BYTES - 1]),
    "header alone": rewrite(lambda data: data[:HEADER_BYTES]),
    "torn": rewrite(lambda data: data[:-1]),
    "torn, zeros to the end": rewrite(lambda data: data[:200] + bytes(len(data) - 200)),
    "longer": rewrite(lambda data: data + b"\0"),
    "zeros": rewrite(lambda data: bytes(len(data))),
    "another block": swap_blocks,
    "of another model": take_from_another_model,
    "sparse": make_sparse,
    "pipe": make_pipe,
    "link": make_link,
    "folder": make_folder,
    **{f"byte {position}": flipped(position) for position in (0, 7, 8, 24, 25, 26, 60, 65, 69, 73, 500, -1)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_file_is_a_miss_and_a_count(tier: DiskTier, damage: Callable[[DiskTier], None]) -> None:
    if damage is DAMAGES["byte -1"]:
        damage = flipped(path_of(tier, 1).stat().st_size - 1)
    damage(tier)
    assert read(tier, 1, 2) == [None, content_of(key_of(2))]
    assert stored(tier, range(3)) == [2]
    stats = tier.take_stats()
    assert (stats.hits, stats.misses, stats.failures >= 1) == (1, 1, True)


def test_many_faults_of_a_kind_are_one_warning(tier: DiskTier, caplog: pytest.LogCaptureFixture) -> None:
    tier.write(blocks(*range(3, 9)))
    settle(tier)
    for number in range(1, 9):
        path_of(tier, number).write_bytes(b"torn")
    read(tier, *range(1, 9))
    assert tier.take_stats().failures == 8
    assert len(caplog.records) == 1
    assert "further faults of this kind are only counted" in caplog.text


def make_a_link(root: Path) -> None:
    root.symlink_to(root.rename(root.with_name("moved")))


@pytest.mark.parametrize("change", [make_a_link, lambda root: root.chmod(0o777), shutil.rmtree])
def test_a_folder_that_others_may_have_made_is_not_used(
    tier: DiskTier, root: Path, change: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    change(root)
    files = sorted(root.rglob("*"))
    tier.write(blocks(3))
    settle(tier)
    assert read(tier, 1, 3) == [None, None]
    tier._survey(1 << 20)
    assert sorted(root.rglob("*")) == files
    stats = tier.take_stats()
    assert (stats.bytes, stats.hits) == (0, 0)
    assert stats.failures > 0
    assert "cannot be written" in caplog.text


def test_a_damaged_block_is_written_anew(tier: DiskTier) -> None:
    path_of(tier, 1).write_bytes(b"torn")
    read(tier, 1)
    tier.write(blocks(1))
    settle(tier)
    assert read(tier, 1) == [content_of(key_of(1))]


def test_a_full_disk_is_a_count_and_leaves_no_part(
    tier: DiskTier, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.write

    def fill_up(descriptor: int, data: memoryview) -> int:
        if len(data) < BLOCK_BYTES:
            return write(descriptor, data)
        write(descriptor, data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fill_up)
        tier.write(blocks(3, 4, 5))
        settle(tier)
    assert tier.take_stats().failures == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    assert stored(tier, range(6)) == [1, 2]
    assert not list(root.rglob("*.part"))
    tier.write(blocks(3))
    settle(tier)
    assert read(tier, 3) == [content_of(key_of(3))]


def test_blocks_that_an_operator_deletes_are_misses_and_new_ones_are_written(
    tier: DiskTier, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(root / ONE)
    assert read(tier, 1, 2) == [None, None]
    tier.write(blocks(1))
    settle(tier)
    assert read(tier, 1) == [content_of(key_of(1))]
    assert tier.take_stats().failures == 0
    assert not caplog.records


def test_a_folder_that_vanishes_is_a_miss_and_a_count(
    tier: DiskTier, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its place may be another disk's: it is not made again."""
    shutil.rmtree(root)
    assert read(tier, 1) == [None]
    tier.write(blocks(3, 4))
    tier.touch([key_of(2)])
    settle(tier)
    assert stored(tier, range(5)) == []
    assert tier.take_stats().failures == 2
    assert len(caplog.records) == 1
    assert not root.exists()


def test_old_blocks_that_cannot_be_deleted_keep_new_ones_out(
    tier: DiskTier, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    tier.max_bytes = 2 * (HEADER_BYTES + BLOCK_BYTES)
    monkeypatch.setattr(os, "unlink", refuse)
    tier.write(blocks(3))
    settle(tier)
    assert stored(tier, range(4)) == [1, 2]
    assert tier.take_stats().failures == 1
    assert len(list(root.rglob("*.kv"))) == 2


WRITER = """
import fcntl, os, signal, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
fcntl.flock(descriptor, fcntl.LOCK_EX)
os.write(descriptor, b"a part")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.usefixtures("tier")
def test_partial_files_of_killed_writers_are_removed_and_those_of_others_kept(root: Path) -> None:
    killed, living = root / ONE / f"{'a' * 16}.part", root / OTHER / f"{'b' * 16}.part"
    young = root / ONE / f"{'c' * 16}.part"  # its writer has not locked it yet
    living.parent.mkdir()
    young.touch()
    ended = subprocess.run([sys.executable, "-c", WRITER, killed], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert killed.exists()
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for path in (killed, living):
            os.utime(path, (0, 0))
        next_tier = open_tier(root)
        settle(next_tier)
        assert not killed.exists()
        assert living.exists()
        assert young.exists()
        assert stored(next_tier, range(4)) == [1, 2]
        next_tier.close(30)


FOREIGN = (
    "photos/aa/aa.kv",
    "photos/aaaaaaaaaaaaaaaa.part",
    f"{'A' * 32}/aa/aa.kv",
    f"{ONE}/notes.part",
    f"{ONE}/keep/0101.kv",
    f"{ONE}/01/notes.kv",
    f"{ONE}/01/01 02.kv",
    f"{ONE}/01/0101.kv.bak",
    f"{ONE}/01/0201.kv",
    f"{ONE}/01/{'01' * 33}.kv",
    f"{OTHER}/aa.kv",
)


@pytest.mark.usefixtures("tier")
def test_files_of_others_survive_a_start_and_evictions_and_are_not_counted(root: Path) -> None:
    for name in FOREIGN:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(100_000))
        os.utime(root / name, (0, 0))
    file_bytes = HEADER_BYTES + BLOCK_BYTES
    next_tier = DiskTier(BlockFolder(root, ONE, BLOCK_BYTES), 2 * file_bytes)
    next_tier.write(blocks(3, 4))
    settle(next_tier)
    next_tier.close(30)
    stats = next_tier.take_stats()
    assert (stats.bytes, stats.failures) == (2 * file_bytes, 0)
    assert [name for name in FOREIGN if not (root / name).exists()] == []
    assert len(list(root.rglob("*.kv"))) == 2 + sum(name.endswith(".kv") for name in FOREIGN)


def test_a_job_that_fails_unexpectedly_ends_no_thread(
    tier: DiskTier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(tier._folder, "read", fail)
        patched.setattr(tier._folder, "write", fail)
        assert read(tier, 1) == [None]
        tier.write(blocks(3))
        settle(tier)
    assert "a fault of ours" in caplog.text
    tier.write(blocks(4))
    settle(tier)
    assert read(tier, 1, 4) == [content_of(key_of(1)), content_of(key_of(4))]
    assert stored(tier, range(5)) == [1, 2, 4]
    assert tier._queued_bytes == 0


def test_a_folder_of_another_user_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(OptionError, match=r"belongs to another user.*give a folder of the user that runs the server"):
        open_tier(root)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(root: Path, mode: int) -> None:
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(OptionError, match=rf"\(mode {mode:o}\).*run chmod 700"):
        open_tier(root)


def test_a_file_instead_of_a_folder_is_refused(root: Path) -> None:
    root.write_text("")
    with pytest.raises(OptionError, match=r"--kv-offload-dir '.*' cannot be used \(it is a file\); give a folder"):
        open_tier(root)


def test_a_folder_may_be_given_by_a_link(root: Path, tmp_path: Path) -> None:
    root.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(root)
    tier = open_tier(link)
    tier.write(blocks(1))
    tier.close(30)
    assert stored(open_tier(root), range(2)) == [1]
