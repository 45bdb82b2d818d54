"""The panel that a start ends with on a terminal: what is served, from which memory, who may call, and what to try."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engine.protocol import EngineInfo

_NARROW = 60  # columns of a terminal without room for a border
_WIDEST = 100
_UNQUANTIZED = {"f32", "f16", "bf16", "float32", "float16", "bfloat16"}

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Started:
    """address: where it listens, for people. models: name -> info; None of one that is loaded when it is asked for.

    tries: what to try next, as label and what to open or type.
    """

    version: str
    address: str
    models: Mapping[str, EngineInfo | None]
    keys: str
    tries: Rows


def show_panel(console: Console, started: Started) -> None:
    """Draw it. What is to be copied stands outside of the border, and lines are not broken in it."""
    title = f"headrace {started.version} is ready"
    rows = [("Address", started.address), *_model_rows(started.models), ("Keys", started.keys)]
    if console.width < _NARROW:
        console.print(Text(title, style="bold green"))
        console.print(_grid(rows))
    else:
        width = min(console.width, _WIDEST)
        panel = Panel(_grid(rows), title=f"[bold green]{title}", title_align="left", border_style="green", width=width)
        console.print(panel)
    label_width = max(len(label) for label, _ in started.tries)
    for label, what in started.tries:
        line = Text.assemble(("  " if console.width >= _NARROW else "") + f"{label:{label_width}}  ", (what, "cyan"))
        console.print(line, soft_wrap=True)
    console.print()


def _grid(rows: Rows) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(label), Text(value))
    return grid


def _model_rows(models: Mapping[str, EngineInfo | None]) -> Iterator[tuple[str, str]]:
    if len(models) > 1:
        for name, info in models.items():
            yield "Model", f"{name}: {'loaded when it is asked for' if info is None else _in_short(info)}"
        return
    for name, info in models.items():
        yield "Model", name
        if info is not None:
            yield "", f"{info.architecture}, {info.dtype} on {info.device}"
            yield "Context", f"{info.max_model_len:,} tokens"
            yield "Memory", f"{size(info.weight_bytes)} of weights, {_kv_cache(info)}{_adapters(info)}"
            yield "Quantized", quantization(info.weight_formats) or "no"
            yield "Drafts", _drafts(info.notes) or "off"


def _in_short(info: EngineInfo) -> str:
    quantized = quantization(info.weight_formats)
    return (
        f"{info.max_model_len:,} tokens of context, {size(info.weight_bytes)} of weights"
        f"{f' ({quantized})' if quantized else ''}, {_kv_cache(info)}"
    )


def _kv_cache(info: EngineInfo) -> str:
    room = f"{info.num_blocks * info.block_size:,} tokens"
    if info.kv_windows != [None]:  # layers with windows need fewer blocks for a token
        room = f"{info.num_blocks:,} blocks of {info.block_size} tokens"
    return f"{size(info.kv_bytes)} of KV cache for {room}"


def _adapters(info: EngineInfo) -> str:
    return f", up to {size(info.adapter_bytes)} for adapters" if info.adapter_bytes else ""


def quantization(formats: Mapping[str, int]) -> str:
    """The quantized formats, the most frequent first; '' if there are none."""
    quantized = {name: count for name, count in formats.items() if name not in _UNQUANTIZED}
    return ", ".join(sorted(quantized, key=lambda name: -quantized[name]))


def _drafts(notes: Sequence[str]) -> str:
    return next((text for note in notes for label, _, text in [note.partition(": ")] if label == "Speculation"), "")


def size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
