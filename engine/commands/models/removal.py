"""`headrace models remove`: finds entries by name, asks for confirmation, removes them, and reports the freed bytes."""

import difflib
import sys
from collections.abc import Sequence

from rich.filesize import decimal

from engine.command_io.models_config import ModelsJob
from engine.errors import StartupError
from models.caches.entry import CacheEntry, EntryKind
from models.caches.removal import OutsideCache, is_being_fetched, processes_using, remove


def remove_named(job: ModelsJob, entries: Sequence[CacheEntry]) -> int:
    """Remove the named entries; return the exit code, 1 if the user does not confirm. Raises StartupError, and then
    nothing has been removed, unless the error says so."""
    chosen = [entry for name in job.remove or () for entry in _named(name, entries)]
    chosen = [entry for number, entry in enumerate(chosen) if entry not in chosen[:number]]
    for entry in chosen:
        _check_unused(entry, is_forced=job.is_forced)
    total = decimal(sum(entry.all_bytes for entry in chosen))
    for entry in chosen:
        sys.stdout.write(f"{_describe(entry)}\n")
    if job.is_rehearsal:
        sys.stdout.write(f"would free {total}; nothing was removed\n")
        return 0
    if job.asks and not _is_confirmed(f"Remove {'it' if len(chosen) == 1 else 'them'} and free {total}? [y/N] "):
        sys.stdout.write("nothing was removed\n")
        return 1
    for entry in chosen:  # again: the answer may have taken long
        _check_unused(entry, is_forced=job.is_forced)
    freed = 0
    for entry in chosen:
        try:
            freed += remove(entry)
        except (OutsideCache, OSError) as error:
            raise StartupError(f"{entry.short_name} cannot be removed: {error}; {decimal(freed)} were freed") from error
    sys.stdout.write(f"freed {decimal(freed)}\n")
    return 0


def _named(name: str, entries: Sequence[CacheEntry]) -> list[CacheEntry]:
    """Find the entry with a name, or all GGUF models of the hub repository with that name. Raises StartupError."""
    wanted = name.lower()
    if found := [entry for entry in entries if wanted in (entry.name.lower(), entry.short_name.lower())]:
        return found
    hub = (entry for entry in entries if entry.kind is EntryKind.HUB)
    if found := [entry for entry in hub if entry.name.lower().startswith((f"{wanted}:", f"{wanted} ("))]:
        return found
    names = [entry.short_name for entry in entries]
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else "headrace models lists what is there"
    raise StartupError(f"{name} is not in the caches; {hint}")


def _check_unused(entry: CacheEntry, *, is_forced: bool) -> None:
    if is_being_fetched(entry):
        raise StartupError(f"{entry.short_name} is being downloaded by another process; stop that, or wait for its end")
    if (users := processes_using(entry)) and not is_forced:
        processes = f"process{'' if len(users) == 1 else 'es'} {', '.join(map(str, users))}"
        raise StartupError(
            f"{entry.short_name} is in use by {processes}; stop what runs there, or use --force: it continues, and the "
            "space is free when it ends"
        )


def _describe(entry: CacheEntry) -> str:
    made = decimal(entry.all_bytes - entry.num_bytes)
    packed = f", and {made} of packed weights" if entry.derived else ""
    return f"{entry.short_name}: {decimal(entry.num_bytes)}{packed}"


def _is_confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise StartupError("removing needs an answer, and the input is not a terminal; use --yes")
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
