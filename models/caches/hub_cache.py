"""The Hugging Face hub's cache, as far as it has models that could be served: its folders are read as they lie.

    <cache>/models--OWNER--REPO/snapshots/COMMIT/FILE -> ../../blobs/HASH

A repository of GGUF files has an entry for each model in it, since those are fetched one by one.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from models.caches.entry import CacheEntry, Kind, files_below, measure
from models.sources.hub_files import FETCHING, INCOMPLETE

_PREFIX = "models--"
_PART = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)", re.IGNORECASE)


def hub_entries(cache: Path) -> Iterator[CacheEntry]:
    """Repositories with safetensors, and GGUF models; what other programs have fetched of other kinds is left out."""
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
            yield _part(
                folder,
                f"{repo}:{_name(folder, paths)}",
                paths,
                others=[path for path in snapshots if path not in paths],
            )
    if incomplete:
        num_bytes, used_s = measure(incomplete)
        name = repo if not has_safetensors else f"{repo} (incomplete)"
        yield CacheEntry(
            name,
            Kind.HUB,
            folder,
            tuple(incomplete),
            tuple(incomplete),
            num_bytes,
            used_s,
            is_complete=False,
            locks=_locks(folder),
        )


def _within(folder: Path, path: Path) -> str:
    """Return a file's name in its repository: behind snapshots/COMMIT."""
    return "/".join(path.relative_to(folder / "snapshots").parts[1:])


def _name(folder: Path, paths: list[Path]) -> str:
    """What selects the model: its file, or the first part of a split one."""
    return min(_within(folder, path) for path in paths)


def _whole(folder: Path, name: str) -> CacheEntry:
    """Return an entry that is all of the repository's folder."""
    contents = tuple(path for path in files_below(folder) if not path.is_symlink() and INCOMPLETE not in path.name)
    num_bytes, used_s = measure(contents)
    return CacheEntry(name, Kind.HUB, folder.parent, (folder,), contents, num_bytes, used_s, locks=_locks(folder))


def _part(folder: Path, name: str, paths: list[Path], others: list[Path]) -> CacheEntry:
    """Return some of a repository's files, with those of their blobs that no other name has."""
    blobs = {path.resolve() for path in paths} - {path.resolve() for path in others}
    own = {blob for blob in blobs if blob.is_relative_to(folder.resolve())}
    num_bytes, used_s = measure(own)
    return CacheEntry(
        name,
        Kind.HUB,
        folder,
        (*paths, *sorted(own - set(paths))),
        tuple(sorted(own)),
        num_bytes,
        used_s,
        locks=_locks(folder),
    )


def _locks(folder: Path) -> tuple[Path, ...]:
    """Of any of the repository's files: which of them are a model's is told when they have arrived."""
    return (folder / "blobs" / f"*{FETCHING}",)
