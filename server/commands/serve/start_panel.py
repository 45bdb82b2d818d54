"""show_panel: draws the panel that ends a start on a terminal: models, memory, keys, and commands to try."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from engine.command_io.program import program
from engine.protocol import EngineInfo, PoolingTask

_NARROW = 60  # columns; a narrower terminal gets no border
_WIDEST = 100
_MAX_NAMES = 3  # of adapters
_UNQUANTIZED = {"f32", "f16", "bf16", "float32", "float16", "bfloat16"}

Rows = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class PanelContent:
    """Content of the panel. address: the server's URL. models: EngineInfo by name; None for a model that is loaded on
    demand. adapters: names of the served adapters; None if no model supports adapters. loadable: names of the folders
    in --adapter-dir that hold an adapter which is not served. tries: (label, command)."""

    version: str
    address: str
    models: Mapping[str, EngineInfo | None]
    keys: str
    tries: Rows
    adapters: Sequence[str] | None = None
    loadable: Sequence[str] = ()
    is_finetuning: bool = False  # whether fine-tuning jobs can be created


def show_panel(console: Console, content: PanelContent) -> None:
    """Draw the panel. Text to copy stays outside the border and is not wrapped."""
    title = f"headrace {content.version} is ready"
    rows = [("Address", content.address), *model_rows(content.models), *_adapter_rows(content), ("Keys", content.keys)]
    if console.width < _NARROW:
        console.print(Text(title, style="bold green"))
        console.print(_grid(rows))
    else:
        width = min(console.width, _WIDEST)
        panel = Panel(_grid(rows), title=f"[bold green]{title}", title_align="left", border_style="green", width=width)
        console.print(panel)
    label_width = max(len(label) for label, _ in content.tries)
    for label, what in content.tries:
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


def _adapter_rows(content: PanelContent) -> Rows:
    if content.adapters is None:
        return []
    names = _names(content.adapters)
    if content.loadable:
        names += f"{'; ' if names else ''}to load with POST /v1/load_lora_adapter: {_names(content.loadable)}"
    tuning = f"on: POST /v1/fine_tuning/jobs, or {program()} finetune" if content.is_finetuning else ""
    return [("Adapters", names or "none yet"), *([("Fine-tuning", tuning)] if tuning else [])]


def _names(names: Sequence[str]) -> str:
    rest = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")


def model_rows(models: Mapping[str, EngineInfo | None]) -> Iterator[tuple[str, str]]:
    """Yield (label, value) rows about the models. models: EngineInfo by name; None for a model loaded on demand."""
    if len(models) > 1:
        for name, info in models.items():
            yield "Model", f"{name}: {'loaded by its first request' if info is None else _in_short(info)}"
        return
    for name, info in models.items():
        yield "Model", name
        if info is not None:
            yield "", f"{info.architecture}, {info.dtype} on {info.device}"
            yield from _pooling_rows(info) if info.pooling is not None else _generation_rows(info)


def _generation_rows(info: EngineInfo) -> Iterator[tuple[str, str]]:
    yield "Context", f"{info.max_model_len:,} tokens"
    yield "Memory", f"{size(info.weight_bytes)} of weights, {_kv_cache(info)}{_adapters(info)}"
    yield "Quantized", quantization(info.weight_formats) or "no"
    if prompts := _note(info.notes, "Prompts"):
        yield "Prompts", prompts.partition(", or ")[0]  # the log has the rest
    yield "Drafts", _note(info.notes, "Speculation") or "off"


def _pooling_rows(info: EngineInfo) -> Iterator[tuple[str, str]]:
    """Yield the rows of a pooling model, which has no KV cache and no speculation."""
    yield "Output", _outputs(info)
    yield "Input", f"texts of up to {info.max_model_len:,} tokens"
    yield "Memory", f"{size(info.weight_bytes)} of weights"
    yield "Quantized", quantization(info.weight_formats) or "no"


def _outputs(info: EngineInfo) -> str:
    """Describe the outputs of a pooling model."""
    assert info.pooling is not None
    if PoolingTask.EMBED in info.pooling.tasks:
        return f"embeddings with {info.pooling.dimensions:,} dimensions"
    if PoolingTask.SCORE in info.pooling.tasks:
        return "scores for pairs of texts"
    return f"classes: {', '.join(info.pooling.labels) or info.pooling.dimensions}"


def _in_short(info: EngineInfo) -> str:
    formats = quantization(info.weight_formats)
    weights = f"{size(info.weight_bytes)} of weights{f' ({formats})' if formats else ''}"
    if info.pooling is not None:
        return f"{_outputs(info)}, texts of up to {info.max_model_len:,} tokens, {weights}"
    return f"{info.max_model_len:,} tokens of context, {weights}, {_kv_cache(info)}{_adapters(info)}"


def _kv_cache(info: EngineInfo) -> str:
    if not info.num_blocks:
        return f"{info.num_states:,} recurrent states and no KV cache"
    room = f"{info.num_blocks * info.block_size:,} tokens"
    if info.kv_windows != [None]:  # layers with windows need fewer blocks for a token
        room = f"{info.num_blocks:,} blocks of {info.block_size} tokens"
    dtype = f" in {info.kv_cache_dtype}" if info.kv_cache_dtype not in ("", info.dtype) else ""
    return f"{size(info.kv_bytes)} of KV cache{dtype} for {room}"


def _adapters(info: EngineInfo) -> str:
    return f", up to {size(info.adapter_bytes)} for adapters" if info.adapter_bytes else ""


def quantization(formats: Mapping[str, int]) -> str:
    """List the quantized weight formats, the most frequent first; '' if there are none."""
    quantized = {name: count for name, count in formats.items() if name not in _UNQUANTIZED}
    return ", ".join(sorted(quantized, key=lambda name: -quantized[name]))


def _note(notes: Sequence[str], wanted: str) -> str:
    """Return the text of the engine's note with this label, or ''."""
    return next((text for note in notes for label, _, text in [note.partition(": ")] if label == wanted), "")


def size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
