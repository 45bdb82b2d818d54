"""Inventory of the caches: models with the entries derived from them, and all other entries."""

import dataclasses
from pathlib import Path

from models.caches.entry import CacheEntry, EntryKind
from models.caches.hub_cache import hub_entries
from models.caches.own_cache import calibrations, derived_entries, packed_weights, wheel_entries
from models.caches.uses import recorded_uses
from models.sources.hub_files import hub_cache
from models.system.cache_folder import cache_folder


def inventory(own: Path | None = None, hub: Path | None = None) -> list[CacheEntry]:
    """Return models by their last use, the latest first, then calibrations, then other entries by kind.

    own, hub: the folders of headrace's cache and of the hub's, by default as the environment sets them.
    """
    own = own or cache_folder()
    models = [*wheel_entries(own), *hub_entries(hub or hub_cache())]
    left = list(packed_weights(own))
    uses = recorded_uses(own)
    complete = []
    for model in models:
        contents = {str(path.resolve()) for path in model.contents}
        made = [pair for pair in left if pair[1] & contents]
        left = [pair for pair in left if not pair[1] & contents]
        used_s = max([model.used_s, *(uses[path] for path in contents & uses.keys())])
        complete.append(dataclasses.replace(model, used_s=used_s, derived=tuple(entry for entry, _ in made)))
    complete.sort(key=lambda entry: (-entry.last_used_s, entry.name))
    others = [_merged([entry for entry, _ in left])] if left else []
    return [*complete, *calibrations(own), *others, *derived_entries(own)]


def _merged(entries: list[CacheEntry]) -> CacheEntry:
    """Merge the packed weights whose models are unknown or in no cache (local paths, mostly) into one entry."""
    return CacheEntry(
        name=str(EntryKind.PACKED_WEIGHTS),
        kind=EntryKind.PACKED_WEIGHTS,
        root=entries[0].root,
        paths=tuple(path for entry in entries for path in entry.paths),
        contents=tuple(path for entry in entries for path in entry.contents),
        num_bytes=sum(entry.num_bytes for entry in entries),
        used_s=max(entry.used_s for entry in entries),
    )
