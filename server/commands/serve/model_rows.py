"""model_rows: what the start panel says of the served models: what they are, what they take, what they can do."""

from collections.abc import Iterator, Mapping, Sequence

from engine.protocol import EngineInfo, PoolingTask

_UNQUANTIZED = {"f32", "f16", "bf16", "float32", "float16", "bfloat16"}


def model_rows(models: Mapping[str, EngineInfo | None]) -> Iterator[tuple[str, str]]:
    """Labels and values. models: name -> info; None of one that is loaded when it is asked for."""
    if len(models) > 1:
        for name, info in models.items():
            yield "Model", f"{name}: {'loaded when it is asked for' if info is None else _in_short(info)}"
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
    yield "Drafts", _drafts(info.notes) or "off"


def _pooling_rows(info: EngineInfo) -> Iterator[tuple[str, str]]:
    """No KV cache and no drafts: each text is computed at once."""
    yield "Makes", _outputs(info)
    yield "Texts", f"of up to {info.max_model_len:,} tokens"
    yield "Memory", f"{size(info.weight_bytes)} of weights"
    yield "Quantized", quantization(info.weight_formats) or "no"


def _outputs(info: EngineInfo) -> str:
    """What a pooling model makes of a text."""
    assert info.pooling is not None
    if PoolingTask.EMBED in info.pooling.tasks:
        return f"vectors of {info.pooling.dimensions:,} numbers"
    if PoolingTask.SCORE in info.pooling.tasks:
        return "scores of pairs of texts"
    return f"classes: {', '.join(info.pooling.labels) or info.pooling.dimensions}"


def _in_short(info: EngineInfo) -> str:
    formats = quantization(info.weight_formats)
    weights = f"{size(info.weight_bytes)} of weights{f' ({formats})' if formats else ''}"
    if info.pooling is not None:
        return f"{_outputs(info)}, texts of up to {info.max_model_len:,} tokens, {weights}"
    return f"{info.max_model_len:,} tokens of context, {weights}, {_kv_cache(info)}{_adapters(info)}"


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
