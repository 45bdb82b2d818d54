"""Entries of the Hugging Face hub's cache: models that could be served, found in its folders.

    <cache>/models--OWNER--REPO/snapshots/COMMIT/FILE -> ../../blobs/HASH

A repository of GGUF files has an entry for each of its models, since they are fetched one by one.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from models.caches.entry import CacheEntry, EntryKind, files_below, measure_files
from models.sources.hub_files import FETCHING, INCOMPLETE

_PREFIX = "models--"
_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)", re.IGNORECASE)


def hub_entries(cache: Path) -> Iterator[CacheEntry]:
    """Yield an entry per repository with safetensors and per GGUF model; repositories without either are left out."""
    for folder in sorted(cache.glob(f"{_PREFIX}*")):
        if folder.is_dir() and not folder.is_symlink():
            yield from _entries(folder, folder.name.removeprefix(_PREFIX).replace("--", "/", 1))


def _entries(folder: Path, repo: str) -> Iterator[CacheEntry]:
    snapshots = files_below(folder / "snapshots")
    ggufs: dict[str, list[Path]] = {}
    for path in snapshots:
        if path.suffix.lower() == ".gguf":
            ggufs.setdefault(_PART.sub("", _within(folder, path)), []).append(path)
    has_safetensors = any(path.suffix == ".safetensors" for path in snapshots)
    incomplete = list((folder / "blobs").glob(f"*{INCOMPLETE}"))
    if has_safetensors or (len(ggufs) == 1 and not incomplete):
        yield _whole(folder, repo if has_safetensors else f"{repo}:{_name(folder, *ggufs.values())}")
    elif ggufs:
        for _, paths in sorted(ggufs.items()):
            others = [path for path in snapshots if path not in paths]
            yield _part(folder, f"{repo}:{_name(folder, paths)}", paths, others)
    if incomplete:
        name = repo if not has_safetensors else f"{repo} (incomplete)"
        yield _entry(folder, name, folder, incomplete, incomplete, is_complete=False)


def _within(folder: Path, path: Path) -> str:
    """Return a file's name in its repository, without snapshots/COMMIT."""
    return "/".join(path.relative_to(folder / "snapshots").parts[1:])


def _name(folder: Path, paths: list[Path]) -> str:
    """Return the name that selects the model: its file, or the first part of a split file."""
    return min(_within(folder, path) for path in paths)


def _whole(folder: Path, name: str) -> CacheEntry:
    contents = [path for path in files_below(folder) if not path.is_symlink() and INCOMPLETE not in path.name]
    return _entry(folder, name, folder.parent, [folder], contents)


def _part(folder: Path, name: str, paths: list[Path], others: list[Path]) -> CacheEntry:
    """Return an entry for one model's files `paths`, and for their blobs that no file in `others` links to.

    others: all other files of the repository.
    """
    blobs = {path.resolve() for path in paths} - {path.resolve() for path in others}
    own = sorted(blob for blob in blobs if blob.is_relative_to(folder.resolve()))
    return _entry(folder, name, folder, [*paths, *(blob for blob in own if blob not in paths)], own)


def _entry(
    folder: Path, name: str, root: Path, paths: list[Path], contents: list[Path], *, is_complete: bool = True
) -> CacheEntry:
    """Return a CacheEntry for files of a repository. Its `locks` match every download into the repository, since the
    name of an incomplete file does not tell its model."""
    return CacheEntry(
        name,
        EntryKind.HUB,
        root,
        tuple(paths),
        tuple(contents),
        *measure_files(contents),
        is_complete=is_complete,
        locks=(folder / "blobs" / f"*{FETCHING}",),
    )
