"""Fetched files compared with their hashes: a hub has them in the names of its blobs, a wheel in its record."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.progress import ProgressReport
from models.sources import wheels
from models.sources.resolve import ModelFiles, is_path

_PIECE_BYTES = 8 << 20
_STAGE = "verify"
_DAMAGED = ".damaged"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a cache. path: as it is opened; content: the file itself. digest: hexadecimal, of SHA-256 or, in 40
    digits, of git's SHA-1."""

    path: Path
    content: Path
    digest: str


def stored_files(files: ModelFiles) -> list[StoredFile]:
    """Those of the model that have a hash; none for a path that the user gave, into a cache or not."""
    if is_path(files.origin):
        return []
    if files.root is None:
        paths = list(files.gguf)
    else:
        paths = sorted(path for path in files.root.rglob("*") if path.is_file())
    for path in paths:
        if (digest := wheels.recorded_sha256(path)) is not None:
            return [StoredFile(path, path, digest)]
    blobs = [(path, path.resolve()) for path in paths]
    return [StoredFile(path, blob, blob.name) for path, blob in blobs if _is_digest(blob)]


def damaged_files(files: ModelFiles, progress: ProgressReport) -> list[StoredFile]:
    """Those whose content has another hash."""
    stored = stored_files(files)
    total = sum(file.content.stat().st_size for file in stored)
    done = 0
    damaged = []
    for file in stored:
        size = file.content.stat().st_size
        digest = hashlib.sha256() if len(file.digest) == 64 else hashlib.sha1(b"blob %d\0" % size)
        with file.content.open("rb") as content:
            while piece := content.read(_PIECE_BYTES):
                digest.update(piece)
                done += len(piece)
                progress(_STAGE, done, total, "B")
        if digest.hexdigest() != file.digest:
            damaged.append(file)
    return damaged


@contextlib.contextmanager
def set_aside(files: Sequence[StoredFile]) -> Iterator[None]:
    """Within it the cache has none of the files, so that a look for the model fetches them again. At its end those that
    were not fetched are put back. Raises OSError."""
    aside: dict[Path, Path] = {}
    try:
        for content in {file.content for file in files}:  # two names may have one content
            aside[content] = content.replace(content.with_name(f"{content.name}{_DAMAGED}"))
        yield
    finally:
        for content, damaged in aside.items():
            if content.exists():
                damaged.unlink(missing_ok=True)
            elif damaged.exists():  # a wheel's goes with its folder
                damaged.replace(content)


def _is_digest(blob: Path) -> bool:
    """Whether it is a hub's blob that is named by its hash."""
    name = blob.name
    return blob.parent.name == "blobs" and len(name) in (40, 64) and all(char in "0123456789abcdef" for char in name)
