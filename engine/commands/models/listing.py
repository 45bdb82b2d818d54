"""Listing of the model caches: a table on a terminal, tab-separated lines elsewhere, or JSON."""

import datetime
import sys
import time
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from engine.command_io.program import program
from engine.wording import counted
from models.caches.entry import CacheEntry, EntryKind
from models.sources.hub_files import hub_cache
from models.system.cache_folder import cache_folder

_NARROW = 60  # columns of a terminal without room for a table
_UNITS = ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"))


def show(entries: Sequence[CacheEntry], *, as_json: bool) -> None:
    """Write the entries to stdout."""
    if as_json:
        rows = [_fields(entry) for entry in entries]
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(rows)).decode() + "\n")
    elif not sys.stdout.isatty():
        sys.stdout.write("".join(_line(entry) for entry in entries))
    else:
        _show_table(Console(highlight=False), entries)


def _fields(entry: CacheEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "kind": str(entry.kind),
        "is_complete": entry.is_complete,
        "bytes": entry.num_bytes,
        "derived_bytes": entry.all_bytes - entry.num_bytes,
        "last_used": _moment(entry),
        "path": str(entry.paths[0]) if entry.kind.is_model else str(entry.root),
    }


def _line(entry: CacheEntry) -> str:
    state = "" if entry.is_complete else ", incomplete"
    return f"{entry.name}\t{entry.all_bytes}\t{_moment(entry)}\t{entry.kind}{state}\n"


def _moment(entry: CacheEntry) -> str:
    moment = datetime.datetime.fromtimestamp(entry.last_used_s, datetime.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _show_table(console: Console, entries: Sequence[CacheEntry]) -> None:
    models = [entry for entry in entries if entry.kind.is_model]
    others = [entry for entry in entries if not entry.kind.is_model]
    if not models:
        console.print(f"No models are cached. Get the demo model with: {program()} pull")
    elif console.width < _NARROW:
        for entry in (*models, *others):
            console.print(Text(entry.short_name))
            console.print(Text(f"  {decimal(entry.all_bytes)}, {_last_use(entry)}"), style="dim")
    else:
        console.print(_table(models, others))
    total = decimal(sum(entry.all_bytes for entry in entries))
    console.print(f"\n{total} in {cache_folder()}" + (f" and {hub_cache()}" if _uses_hub(models) else ""), style="dim")
    if models:
        console.print(f"Free space with: {program()} models remove MODEL", style="dim")


def _table(models: Sequence[CacheEntry], others: Sequence[CacheEntry]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Model", overflow="fold", ratio=1)
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Last used", no_wrap=True)
    table.add_column("From", no_wrap=True)
    for entry in models:
        _add_row(table, entry, str(entry.kind) if entry.is_complete else f"{entry.kind}, incomplete", style="")
    table.add_row()
    for entry in others:
        _add_row(table, entry, str(entry.kind) if entry.kind is EntryKind.CALIBRATION else "derived", style="dim")
    return table


def _add_row(table: Table, entry: CacheEntry, source: str, *, style: str) -> None:
    cells = (entry.short_name, decimal(entry.all_bytes), _last_use(entry), source)
    table.add_row(*map(Text, cells), style=style)


def _last_use(entry: CacheEntry) -> str:
    return ago(time.time() - entry.last_used_s)


def _uses_hub(models: Sequence[CacheEntry]) -> bool:
    return any(hub_cache() in (entry.root, *entry.root.parents) for entry in models)


def ago(seconds: float) -> str:
    """Return a text such as '3 hours ago'."""
    for length_s, unit in _UNITS:
        if (count := int(seconds // length_s)) >= 1:
            return f"{counted(count, unit)} ago"
    return "just now"
