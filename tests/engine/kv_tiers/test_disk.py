"""DiskTier: blocks are found again after a restart, within a bound that several engines share."""

import itertools
import os
import random
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine.errors import OptionError
from engine.kv_tiers.block_folder import BlockFolder
from engine.kv_tiers.disk import DiskTier
from tests.helpers.disk_tier import (
    BLOCK_BYTES,
    FILE_BYTES,
    ONE,
    OTHER,
    blocks,
    content_of,
    key_of,
    read,
    settle,
    stored,
)

pytestmark = pytest.mark.fast

Open = Callable[..., DiskTier]


class Changes:
    """The keys that a tier's changes leave."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()

    def __call__(self, stored: Collection[bytes], removed: Collection[bytes]) -> None:
        assert self.keys.isdisjoint(stored)
        assert self.keys.issuperset(removed)
        self.keys |= set(stored)
        self.keys -= set(removed)


@pytest.fixture
def open_tier(tmp_path: Path) -> Iterator[Open]:
    """Opens tiers in one folder, whose clock counts the calls of all of them."""
    ticks = itertools.count(10**18, 10**6)
    tiers: list[DiskTier] = []

    def open_one(fingerprint: str = ONE, max_blocks: int = 100, **options: Any) -> DiskTier:
        folder = BlockFolder(tmp_path / "kv", fingerprint, BLOCK_BYTES)
        tiers.append(DiskTier(folder, max_blocks * FILE_BYTES, clock_ns=lambda: next(ticks), **options))
        return tiers[-1]

    yield open_one
    for tier in tiers:
        tier.close(30)


def test_blocks_are_found_after_a_restart_by_the_same_fingerprint_alone(open_tier: Open) -> None:
    first = open_tier()
    first.write(blocks(1, 2))
    first.close(30)
    same, other = open_tier(), open_tier(OTHER)
    assert stored(same, range(4)) == [1, 2]
    assert read(same, 2, 3, 1) == [content_of(key_of(2)), None, content_of(key_of(1))]
    assert stored(other, range(4)) == []
    assert read(other, 1) == [None]


def test_a_touch_finds_what_others_deleted(open_tier: Open) -> None:
    tier = open_tier()
    tier.write(blocks(1, 2))
    settle(tier)
    tier._folder.remove(key_of(1))
    keys = [key_of(1), key_of(2)]
    assert tier.num_stored(keys) == 2
    tier.touch(keys, is_checked=True)
    settle(tier)
    assert tier.num_stored(keys) == 1


def test_queued_blocks_are_contained_and_not_stored(open_tier: Open) -> None:
    tier, may_write = open_tier(), threading.Event()

    def wait() -> None:
        assert may_write.wait(30)

    tier._writes.put(wait)
    tier.write(blocks(1))
    keys = [key_of(1), key_of(2)]
    assert (tier.contains(keys), tier.num_stored(keys)) == ([True, False], 0)
    may_write.set()
    settle(tier)
    assert tier.num_stored(keys) == 1


def test_statistics_count_since_they_were_last_taken(open_tier: Open) -> None:
    tier = open_tier()
    tier.write(blocks(1, 2))
    settle(tier)
    read(tier, 1, 2, 3)
    stats = tier.take_stats()
    assert (stats.bytes, stats.hits, stats.misses) == (2 * FILE_BYTES, 2, 1)
    assert (stats.failures, stats.dropped) == (0, 0)
    assert min(stats.read_s, stats.write_s) > 0
    again = tier.take_stats()
    assert (again.bytes, again.hits, again.misses, again.read_s) == (2 * FILE_BYTES, 0, 0, 0)


def test_files_are_for_their_user_alone(open_tier: Open, tmp_path: Path) -> None:
    tier = open_tier()
    mask = os.umask(0)
    try:
        tier.write(blocks(1))
        settle(tier)
    finally:
        os.umask(mask)
    modes = {path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert set(modes.values()) == {0o700, 0o600}
    assert [path.suffix for path, mode in modes.items() if mode == 0o600] == [".kv"]


def test_queued_blocks_are_found_and_more_than_the_queue_takes_are_dropped(open_tier: Open) -> None:
    tier = open_tier(queue_bytes=3 * BLOCK_BYTES)
    release = threading.Event()
    tier._writes.put(lambda: release.wait(30) and None)
    assert tier.room_bytes == 3 * BLOCK_BYTES
    tier.write(blocks(1, 2, 3, 4, 5))
    assert tier.room_bytes == 0
    tier.count_dropped(2)
    assert stored(tier, range(6)) == [1, 2, 3]
    assert read(tier, 3) == [content_of(key_of(3))]
    assert tier.take_stats().dropped == 4
    release.set()
    settle(tier)
    tier.write(blocks(4))
    settle(tier)
    assert stored(tier, range(6)) == [1, 2, 3, 4]


def test_a_block_is_written_once(open_tier: Open) -> None:
    tier = open_tier()
    tier.write(blocks(1))
    settle(tier)
    tier.write([(key_of(1), b"never looked at")])
    settle(tier)
    assert read(tier, 1) == [content_of(key_of(1))]


def test_the_blocks_used_longest_ago_make_room(open_tier: Open) -> None:
    tier = open_tier(max_blocks=10)
    tier.write(blocks(*range(10)))
    settle(tier)
    read(tier, 0)
    tier.touch([key_of(1)])
    tier.write(blocks(10, 11))
    settle(tier)
    assert stored(tier, range(12)) == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11]
    assert tier.take_stats().bytes == 10 * FILE_BYTES


def test_the_tail_of_a_read_prefix_goes_before_its_head(open_tier: Open) -> None:
    tier = open_tier(max_blocks=4)
    tier.write(blocks(1, 2, 3, 4))
    settle(tier)
    read(tier, 1, 2, 3, 4)
    tier.write(blocks(5, 6))
    settle(tier)
    assert stored(tier, range(7)) == [1, 2, 5, 6]


def test_all_fingerprints_share_the_bound(open_tier: Open, tmp_path: Path) -> None:
    one = open_tier(max_blocks=6)
    one.write(blocks(1, 2, 3, 4))
    settle(one)
    other = open_tier(OTHER, max_blocks=6)
    other.write(blocks(1, 2, 3, 4))
    settle(other)
    assert stored(other, range(6)) == [1, 2, 3, 4]
    assert len(list(tmp_path.rglob("*.kv"))) == 6
    assert read(one, 1, 2, 3, 4) == [None, None, content_of(key_of(3)), content_of(key_of(4))]
    assert one.take_stats().failures == 0
    assert stored(one, range(6)) == [3, 4]


def test_a_lower_bound_is_kept_from_the_start(open_tier: Open) -> None:
    first = open_tier()
    first.write(blocks(*range(8)))
    first.close(30)
    second = open_tier(max_blocks=5)
    settle(second)
    assert stored(second, range(8)) == [4, 5, 6, 7]


def test_blocks_of_another_engine_are_found_by_the_next_survey(
    open_tier: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = open_tier(), open_tier()
    settle(other)
    one.write(blocks(1))
    settle(one)
    assert stored(other, range(2)) == []
    monkeypatch.setattr("engine.kv_tiers.disk._SURVEY_S", 0.0)
    monkeypatch.setattr("engine.kv_tiers.disk._SURVEY_COST", 0)
    other.contains([key_of(1)])
    settle(other)
    assert stored(other, range(2)) == [1]


def test_a_folder_that_takes_long_to_list_is_listed_rarely(open_tier: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = open_tier(), open_tier()
    settle(other)
    one.write(blocks(1))
    settle(one)
    monkeypatch.setattr("engine.kv_tiers.disk._SURVEY_S", 0.0)
    other._survey_s = 1000.0
    other.contains([key_of(1)])
    settle(other)
    assert stored(other, range(2)) == []


def test_removed_blocks_are_not_found_again(open_tier: Open) -> None:
    tier = open_tier()
    tier.write(blocks(1, 2))
    settle(tier)
    release = threading.Event()
    tier._writes.put(lambda: release.wait(30) and None)
    tier.write(blocks(3))
    tier.remove([key_of(1), key_of(3), key_of(9)])
    assert stored(tier, range(10)) == [2]
    assert read(tier, 1, 3) == [None, None]
    release.set()
    settle(tier)
    assert stored(open_tier(), range(10)) == [2]
    tier.write(blocks(1))
    settle(tier)
    assert read(tier, 1) == [content_of(key_of(1))]


def test_a_survey_brings_back_no_block_that_is_being_removed(open_tier: Open) -> None:
    tier = open_tier()
    tier.write(blocks(1))
    settle(tier)
    release = threading.Event()
    tier._writes.put(lambda: release.wait(30) and None)
    tier.remove([key_of(1)])
    tier._survey(tier.max_bytes)
    assert stored(tier, range(2)) == []
    release.set()


def test_closing_finishes_queued_writes_and_answers_reads(open_tier: Open) -> None:
    tier = open_tier()
    tier.write(blocks(*range(20)))
    tier.close(30)
    assert stored(open_tier(), range(20)) == list(range(20))
    assert tier.room_bytes == 0
    tier.write(blocks(21))
    assert tier.take_stats().dropped == 1


def test_closing_waits_no_longer_than_it_may(open_tier: Open) -> None:
    tier = open_tier()
    release = threading.Event()
    tier._writes.put(lambda: release.wait(30) and None)
    tier.write(blocks(1))
    tier.close(0)
    release.set()
    assert stored(open_tier(), range(2)) == []


def test_a_bound_below_one_block_is_refused(open_tier: Open) -> None:
    with pytest.raises(OptionError, match=r"may have 0 bytes .*less than one block.*raise it"):
        open_tier(max_blocks=0)


def test_the_default_bound_leaves_most_of_the_disk(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "kv", ONE, BLOCK_BYTES)
    status = os.statvfs(tmp_path)
    assert 0 < folder.default_max_bytes() <= status.f_bavail * status.f_frsize // 4 + 2**30
    assert folder.default_max_bytes() <= 32 << 30


def test_engines_that_share_a_folder_never_read_a_wrong_block(open_tier: Open) -> None:
    """Several threads use three tiers with one fingerprint and a small bound at once."""
    tiers = [open_tier(max_blocks=12) for _ in range(3)]

    def use(seed: int) -> int:
        generator, num_hits = random.Random(seed), 0
        tier = tiers[seed % len(tiers)]
        for _ in range(60):
            numbers = generator.sample(range(30), 3)
            match generator.randrange(4):
                case 0:
                    tier.remove([key_of(numbers[0])])
                case 1:
                    tier.write(blocks(*numbers))
                case _:
                    for number, content in zip(numbers, read(tier, *numbers), strict=True):
                        assert content in (None, content_of(key_of(number)))
                        num_hits += content is not None
        return num_hits

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(use, range(6))) > 0
    for tier in tiers:
        settle(tier)
        assert tier._own_bytes == sum(tier._index.values())
        assert tier._queued_bytes == 0
        assert tier.take_stats().failures == 0


def test_changes_leave_the_blocks_that_are_stored(open_tier: Open, tmp_path: Path) -> None:
    before = open_tier()
    before.write(blocks(1, 2))
    settle(before)
    changes = Changes()
    tier = open_tier(max_blocks=20, on_change=changes)
    assert changes.keys == {key_of(1), key_of(2)}
    tier.write(blocks(*range(3, 30)))  # the bound evicts the oldest
    settle(tier)
    tier.remove([key_of(29), key_of(99)])
    settle(tier)
    gone = next((tmp_path).rglob(f"{key_of(28).hex()}.kv"))
    gone.unlink()
    assert read(tier, 28) == [None]
    assert changes.keys == {key_of(number) for number in stored(tier, range(30))}
    assert 0 < len(changes.keys) < 20
