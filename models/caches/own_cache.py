"""Entries of headrace's own cache folder: models from wheels, calibrations, and files that were made from models."""

import json
from collections.abc import Iterator
from pathlib import Path

from models.caches.entry import CacheEntry, EntryKind, files_below, measure_files
from models.sources import wheels
from models.sources.demos import DEMOS
from models.system.cache_folder import CALIBRATION_FOLDER
from models.weight_cache.index import WeightFileError, read_index

_FOLDERS = {EntryKind.KERNELS: "kernels", EntryKind.TOKENIZERS: "tokenizers", EntryKind.QUALITY: "quality"}
_LOCK = ".lock"
_WEIGHTS = (".gguf", ".safetensors")
_PARTIAL = ".partial"
_MAX_CALIBRATION_BYTES = 16 << 20  # as server/calibration/files.py reads


def wheel_entries(cache: Path) -> Iterator[CacheEntry]:
    folder = cache / "wheels"
    for path in sorted(path for path in folder.glob("*") if path.is_dir() and not path.is_symlink()):
        lock = folder / f"{path.name.removesuffix(_PARTIAL)}{_LOCK}"
        contents = tuple(files_below(path))
        num_bytes, used_s = measure_files(contents, are_read_by_listing=True)  # which reads the record
        _, read_s = measure_files(file for file in contents if file.suffix in _WEIGHTS)
        is_complete = not path.name.endswith(_PARTIAL)
        model = wheels.model_name(path.with_name(path.name.removesuffix(_PARTIAL)), DEMOS)
        yield CacheEntry(
            model if is_complete else f"{model} (incomplete)",
            EntryKind.WHEELS,
            folder,
            (path,),
            contents,
            num_bytes,
            max(used_s, read_s),
            is_complete=is_complete,
            locks=(lock,),
        )


def derived_entries(cache: Path) -> Iterator[CacheEntry]:
    """Yield an entry for each kind of derived files that exist, except packed weights."""
    for kind, name in _FOLDERS.items():
        if contents := tuple(files_below(cache / name)):
            yield CacheEntry(str(kind), kind, cache / name, contents, contents, *measure_files(contents))


def calibrations(cache: Path) -> Iterator[CacheEntry]:
    """Yield an entry for each calibration of a model's or adapter's decisions."""
    folder = cache / CALIBRATION_FOLDER
    for path in sorted(folder.glob("*.json")):
        name = f"{EntryKind.CALIBRATION}:{_calibrated(path)}:{path.stem[:8]}"
        size_and_use = measure_files([path], are_read_by_listing=True)
        yield CacheEntry(name, EntryKind.CALIBRATION, folder, (path,), (path,), *size_and_use)


def _calibrated(path: Path) -> str:
    """Return the name of the calibrated adapter or model, "unknown" if the file does not say it."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_CALIBRATION_BYTES + 1)
        fields = json.loads(content) if len(content) <= _MAX_CALIBRATION_BYTES else {}
        name = str(fields["adapter"] or fields["model"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "unknown"
    return name if name.isprintable() else "unknown"  # a tab or newline would break the listing


def packed_weights(cache: Path) -> Iterator[tuple[CacheEntry, frozenset[str]]]:
    """Yield, for each file of packed weights, its entry and the paths of the weight files it was made from.

    There are no paths if the file is damaged.
    """
    folder = cache / "weights"
    for path in sorted(folder.glob("*.weights")):
        model, sources = _sources(path)
        size_and_use = measure_files([path], are_read_by_listing=True)  # each start updates its time
        entry = CacheEntry(model, EntryKind.PACKED_WEIGHTS, folder, (path,), (path,), *size_and_use)
        yield entry, frozenset(sources)


def _sources(path: Path) -> tuple[str, list[str]]:
    try:
        with path.open("rb") as file:
            extra = read_index(file)["extra"]
        return str(extra["model"]), list(extra["sources"])
    except (OSError, WeightFileError, KeyError, TypeError, json.JSONDecodeError):
        return "", []
