"""A batch's input: its lines, whatever the chunks that they are read in, in an order that brings equal beginnings
together."""

import json
from pathlib import Path
from typing import Any

import pytest

from server.batches import source as module
from server.batches.source import MAX_FAULTS, Source, digest_of, with_pauses
from server.config.storage import StorageConfig
from server.files.disk import FolderDisk
from server.files.store import Files
from server.store.database import memory_database
from tests.helpers.batches import CHAT, chat_line, jsonl

pytestmark = pytest.mark.fast


def _source(folder: Path, data: bytes) -> Source:
    disk = FolderDisk(folder / "files")
    disk.create("file-in")
    disk.write("file-in", 0, data)
    files = Files(memory_database(), disk, StorageConfig())
    return Source(files, "file-in", CHAT, max_line_bytes=10_000)


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
async def test_lines_are_numbered_whatever_the_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, end: bytes
) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    lines = [chat_line(f"{i}", "ü" * i) for i in range(5)]
    data = jsonl(lines[:2]) + b"\n  \n" + jsonl(lines[2:])[:-1] + end
    source = _source(tmp_path, data)
    checked = await source.check(max_lines=10)
    assert (checked.faults, checked.num_lines, checked.model) == ([], 5, lines[0]["body"]["model"])
    read = [line async for window in source.windows(set()) for line in window]
    assert {line.custom_id: line.number for line in read} == {"0": 1, "1": 2, "2": 5, "3": 6, "4": 7}
    assert all(line.body == lines[int(line.custom_id)]["body"] for line in read)


async def test_what_is_done_is_left_out(tmp_path: Path) -> None:
    source = _source(tmp_path, jsonl(chat_line(f"{i}") for i in range(5)))
    read = [line.custom_id async for window in source.windows({digest_of("1"), digest_of("3")}) for line in window]
    assert sorted(read) == ["0", "2", "4"]


async def test_lines_that_begin_alike_come_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WINDOW_LINES", 12)
    source = _source(tmp_path, jsonl(chat_line(f"{i}", "abc"[i % 3] * 50 + str(i)) for i in range(30)))
    windows = [[int(line.custom_id) % 3 for line in window] async for window in source.windows(set())]
    assert [len(window) for window in windows] == [12, 12, 6]
    for window in windows:
        assert window == sorted(window)


async def test_a_bounded_number_of_faults_is_told(tmp_path: Path) -> None:
    checked = await _source(tmp_path, b"{\n" * (MAX_FAULTS + 50)).check(max_lines=10_000)
    assert [fault.line for fault in checked.faults] == list(range(1, MAX_FAULTS + 1))


async def test_a_line_that_is_too_long_is_not_held(tmp_path: Path) -> None:
    """Nor is anything behind it looked at."""
    data = jsonl([chat_line("a")]) + b"x" * (4 << 20) + b"\n{\n"
    checked = await _source(tmp_path, data).check(max_lines=10)
    assert [(fault.code, fault.line) for fault in checked.faults] == [("line_too_long", 2)]


async def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    disk = FolderDisk(tmp_path / "none")
    source = Source(Files(memory_database(), disk, StorageConfig()), "file-in", CHAT, max_line_bytes=100)
    assert [fault.code for fault in (await source.check(max_lines=1)).faults] == ["input_file_not_found"]


@pytest.mark.parametrize("model", [3, "other"])
async def test_a_batch_has_one_model(tmp_path: Path, model: Any) -> None:
    lines = [chat_line("a"), chat_line("b", model=model)]
    checked = await _source(tmp_path, b"\n".join(json.dumps(line).encode() for line in lines)).check(max_lines=9)
    assert [(fault.line, fault.param) for fault in checked.faults] == [(2, "body.model")]


def test_work_that_takes_long_pauses_in_between_and_short_work_does_not() -> None:
    now_s, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(len(seen))
        assert seconds > 0

    seen: list[int] = []
    for item in with_pauses(range(10), clock=lambda: now_s[0], sleep=sleep):
        seen.append(item)
        now_s[0] += 0.0015
    assert seen == list(range(10))
    assert pauses == [2, 4, 6, 8, 10]
    assert list(with_pauses(range(3), clock=lambda: 0.0, sleep=sleep)) == [0, 1, 2]
    assert len(pauses) == 5
