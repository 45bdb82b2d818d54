"""Verification of downloaded files by the hashes in hub blobs' names and in the records of wheels."""

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
    """A file in a cache. path: the name by which it is opened; content: the actual file, after symbolic links.

    digest: hexadecimal SHA-256, or git's SHA-1 if it has 40 digits.
    """

    path: Path
    content: Path
    digest: str


def stored_files(files: ModelFiles) -> list[StoredFile]:
    """Return the model's files with a known hash; none for a path that the user gave, even into a cache."""
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
    """Return the model's files whose contents do not match their hash."""
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
def hide_files(files: Sequence[StoredFile]) -> Iterator[None]:
    """Hide files from their cache within the context, so that resolving the model fetches them again.

    At the end, files that were not fetched are put back. Raises OSError if a file cannot be renamed.
    """
    hidden: dict[Path, Path] = {}
    try:
        for content in {file.content for file in files}:  # two names may have one content
            hidden[content] = content.replace(content.with_name(f"{content.name}{_DAMAGED}"))
        yield
    finally:
        for content, damaged in hidden.items():
            if content.exists():
                damaged.unlink(missing_ok=True)
            elif damaged.exists():  # a wheel's file is deleted with its folder
                damaged.replace(content)


def _is_digest(blob: Path) -> bool:
    """Whether a file is a blob of the hub's cache, which is named by its hash."""
    name = blob.name
    return blob.parent.name == "blobs" and len(name) in (40, 64) and all(char in "0123456789abcdef" for char in name)
