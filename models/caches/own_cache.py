"""headrace's own cache folder: models from wheels, and what was made of models and can be made again."""

import json
from collections.abc import Iterator
from pathlib import Path

from models.caches.entry import CacheEntry, Kind, files_below, measure
from models.sources import wheels
from models.sources.demos import DEMOS
from models.weight_cache.index import WeightFileError, read_index

_FOLDERS = {Kind.KERNELS: "kernels", Kind.TOKENIZERS: "tokenizers", Kind.QUALITY: "quality"}
_LOCK = ".lock"
_WEIGHTS = (".gguf", ".safetensors")
_PARTIAL = ".partial"


def wheel_entries(cache: Path) -> Iterator[CacheEntry]:
    folder = cache / "wheels"
    for path in sorted(path for path in folder.glob("*") if path.is_dir() and not path.is_symlink()):
        lock = folder / f"{path.name.removesuffix(_PARTIAL)}{_LOCK}"
        contents = tuple(files_below(path))
        num_bytes, used_s = measure(contents, are_looked_into=True)  # at the record of what it was made of
        _, read_s = measure(file for file in contents if file.suffix in _WEIGHTS)
        is_complete = not path.name.endswith(_PARTIAL)
        model = wheels.model_name(path.with_name(path.name.removesuffix(_PARTIAL)), DEMOS)
        name = model if is_complete else f"{model} (incomplete)"
        yield CacheEntry(
            name,
            Kind.WHEELS,
            folder,
            (path,),
            contents,
            num_bytes,
            max(used_s, read_s),
            is_complete=is_complete,
            locks=(lock,),
        )


def derived_entries(cache: Path) -> Iterator[CacheEntry]:
    """Yield one for each kind that there is, but packed weights."""
    for kind, name in _FOLDERS.items():
        if contents := tuple(files_below(cache / name)):
            yield CacheEntry(str(kind), kind, cache / name, contents, contents, *measure(contents))


def packed_weights(cache: Path) -> Iterator[tuple[CacheEntry, frozenset[str]]]:
    """Yield one for each file, with the files that it was made of; none are known of those that earlier versions
    wrote.
    """
    folder = cache / "weights"
    for path in sorted(folder.glob("*.weights")):
        model, sources = _made_of(path)
        size_and_use = measure([path], are_looked_into=True)  # each start writes its time
        entry = CacheEntry(model, Kind.PACKED_WEIGHTS, folder, (path,), (path,), *size_and_use)
        yield entry, frozenset(sources)


def _made_of(path: Path) -> tuple[str, list[str]]:
    try:
        with path.open("rb") as file:
            extra = read_index(file)["extra"]
        return str(extra["model"]), list(extra["sources"])
    except (OSError, WeightFileError, KeyError, TypeError, json.JSONDecodeError):
        return "", []
