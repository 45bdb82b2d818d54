"""The digest of a model's files by samples of their contents."""

import os
import shutil
from pathlib import Path

import pytest

from models.sources.contents import contents_digest

pytestmark = pytest.mark.fast

LARGE = 3 << 20


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_copy_with_another_name_and_other_times_has_the_same_digest(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.gguf", os.urandom(LARGE))
    copy = Path(shutil.copyfile(file, tmp_path / "b.gguf"))
    os.utime(copy, (1, 1))
    assert contents_digest([file]) == contents_digest([copy])


def test_every_file_counts_and_so_does_where_one_ends(tmp_path: Path) -> None:
    files = [_write(tmp_path / str(number), data) for number, data in enumerate((b"ab", b"c", b"a", b"bc"))]
    assert contents_digest(files[:2]) != contents_digest(files[2:])
    assert contents_digest(files[:2]) != contents_digest(files[:1])


@pytest.mark.parametrize("changed", [slice(0, 1), slice(-1, None), slice(LARGE // 2, LARGE // 2 + 16384)])
def test_changes_of_a_large_file_are_seen(tmp_path: Path, changed: slice) -> None:
    weights = bytearray(LARGE)
    before = contents_digest([_write(tmp_path / "a", bytes(weights))])
    weights[changed] = b"\1" * len(weights[changed])
    assert contents_digest([_write(tmp_path / "a", bytes(weights))]) != before
