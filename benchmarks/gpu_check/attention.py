"""Stages about attention: each back end of the device against plain torch, and its share of the device's limits."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

import torch

from benchmarks.gpu_check.figures import Figure
from benchmarks.gpu_check.stages import Context
from benchmarks.gpu_check.timing import seconds_of
from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import CODE_DTYPES, kv_dtype_name
from models.attention.base import AttentionBackend
from models.attention.reference import ReferenceAttention
from models.attention.select import PREFERENCE, load_backend
from models.batch import ForwardBatch, KVGroupBatch, forward_batch
from models.kv.layer import LayerKV, allocate_layer_kv

_CPU, _BLOCK_SIZE = torch.device("cpu"), 16
_SCALE = 128**-0.5
_QWEN = AttentionSpec(32, 8, 128, _SCALE)
_SPECS = {
    "grouped": _QWEN,
    "one key head each": AttentionSpec(4, 4, 64, 0.125),
    "window": AttentionSpec(8, 2, 128, _SCALE, sliding_window=70),
    "soft cap": AttentionSpec(8, 2, 256, 0.0625, logit_softcap=30.0),
    "head size 96": AttentionSpec(6, 2, 96, 0.1),
}
Step = Sequence[tuple[int, int]]  # (computed tokens, new rows) of each sequence
_STEPS: dict[str, Step] = {
    "decode": [(0, 1), (15, 1), (16, 1), (700, 1), (33, 1)],
    "prompts": [(0, 130), (0, 1), (64, 70)],
    "mixed": [(500, 1), (0, 200), (31, 1), (300, 33)],
}
_TINY_STEPS: dict[str, Step] = {"mixed": [(17, 1), (0, 20), (16, 3)]}
# Dtypes of activations and of the KV cache, and the largest error. A code may differ by one where sums do.
_ERRORS = (
    (torch.float32, torch.float32, 1e-4),
    (torch.bfloat16, torch.bfloat16, 2e-2),
    (torch.bfloat16, torch.int8, 4e-2),
    (torch.bfloat16, torch.float8_e4m3fn, 4e-2),
)


def attention_right(context: Context) -> Iterator[Figure]:
    """Compare each back end with plain torch in fp32 on the CPU; blocks of other sequences hold NaN."""
    steps = _TINY_STEPS if context.is_tiny else _STEPS
    for path in PREFERENCE[context.device.type]:
        try:
            backend = load_backend(path)
        except Exception as error:  # noqa: BLE001 - a library that is missing; the other back ends are checked
            yield Figure(path, None, limit=0, note=f"{type(error).__name__}: {error}"[:300])
            continue
        for dtype, kv_dtype, limit in _ERRORS:
            errors, refused = [], []
            for name, spec in _SPECS.items():
                if (reason := backend.unsupported(spec, dtype, kv_dtype, context.device)) is not None:
                    refused.append(f"{name} ({reason})")
                    continue
                errors += [_error(context, backend, spec, step, dtype, kv_dtype) for step in steps.values()]
            cache = "" if kv_dtype == dtype else f", cache in {kv_dtype_name(kv_dtype)}"
            title = f"{backend.name} in {str(dtype).removeprefix('torch.')}{cache}"
            if errors:
                yield Figure(f"{title}: error", max(errors), limit=limit, more_is_better=False)
            for each in refused:
                yield Figure(f"{title} refuses", None, note=each)


def _error(
    context: Context,
    backend: AttentionBackend,
    spec: AttentionSpec,
    step: Step,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
) -> float:
    """Return the largest error of a step's outputs, whose values are near 1. NaN becomes infinite."""
    total = max(start + rows for start, rows in step)
    generator = torch.Generator().manual_seed(0)
    keys, values = (
        torch.randn(len(step), total, spec.num_kv_heads, spec.head_dim, generator=generator) for _ in range(2)
    )
    queries = torch.randn(sum(rows for _, rows in step), spec.num_heads, spec.head_dim, generator=generator)
    if kv_dtype in CODE_DTYPES:  # codes are those of rounded numbers
        keys, values = keys.to(dtype).float(), values.to(dtype).float()
    outputs = []
    exact = kv_dtype if kv_dtype in CODE_DTYPES else torch.float32
    for each, device, kind, stored in (
        (ReferenceAttention(), _CPU, torch.float32, exact),
        (backend, context.device, dtype, kv_dtype),
    ):
        kv, batch, group = _cache(each, spec, step, device, kind, stored)
        for number, (start, rows) in enumerate(step):
            blocks = group.block_tables[number].to(torch.int64)
            positions = torch.arange(start + rows, device=device)
            slots = blocks[positions // _BLOCK_SIZE] * _BLOCK_SIZE + positions % _BLOCK_SIZE
            written = KVGroupBatch(slots, group.block_tables, _BLOCK_SIZE)
            k, v = (tensor[number, : start + rows].to(device, kind) for tensor in (keys, values))
            each.write(kv, k, v, written)
        outputs.append(each.forward(queries.to(device, kind), kv, batch, group, spec).float().cpu())
    difference = (outputs[1] - outputs[0]).abs().max().item()
    return difference if difference == difference else float("inf")


def _cache(
    backend: AttentionBackend,
    spec: AttentionSpec,
    step: Step,
    device: torch.device,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
) -> tuple[LayerKV, ForwardBatch, KVGroupBatch]:
    """Return a cache full of NaN, and the batch of a step over shuffled blocks of it."""
    width = -(-max(start + rows for start, rows in step) // _BLOCK_SIZE)
    num_blocks = width * len(step) + 3
    order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    table = order[: width * len(step)].view(len(step), width)
    batch = forward_batch(
        [0] * sum(rows for _, rows in step),
        [rows for _, rows in step],
        [table],
        block_size=_BLOCK_SIZE,
        device=device,
        starts=[start for start, _ in step],
    )
    kv = allocate_layer_kv(backend.layout(spec, dtype, kv_dtype), num_blocks, _BLOCK_SIZE, device)
    for part in kv.parts.values():
        part.view(torch.uint8).fill_(0xFF)  # NaN, also of scales
    group = batch.groups[0]
    assert isinstance(group, KVGroupBatch)
    return kv, batch, group


def attention_fast(context: Context) -> Iterator[Figure]:
    """Time decode steps and prompts of an 8B model's layer by the back end that the engine chooses."""
    path = next(iter(PREFERENCE[context.device.type]))
    backend, device = load_backend(path), context.device
    decodes = [(1, 64)] if context.is_tiny else [(1, 640), (1, 32_768), (32, 640), (32, 4096), (256, 640), (16, 4096)]
    coded = [(sequences, length, torch.int8) for sequences, length in decodes[-1:]]
    for sequences, length, kv_dtype in [*((*each, torch.bfloat16) for each in decodes), *coded]:
        if backend.unsupported(_QWEN, torch.bfloat16, kv_dtype, device) is not None:
            continue
        step = [(length - 1, 1)] * sequences
        kv, batch, group = _cache(backend, _QWEN, step, device, torch.bfloat16, kv_dtype)
        for part in kv.parts.values():
            part.zero_()
        q = torch.randn(sequences, _QWEN.num_heads, _QWEN.head_dim, device=device).bfloat16()
        seconds = seconds_of(context, lambda: backend.forward(q, kv, batch, group, _QWEN))  # noqa: B023
        read = sequences * length * kv.layout.position_bytes
        is_large = sequences * length >= 65_536  # below, launches count
        limit = 2.3 if is_large and not context.is_tiny else None  # 80 % of 2.9 TB/s
        cache = "" if kv_dtype == torch.bfloat16 else f", cache in {kv_dtype_name(kv_dtype)}"
        yield Figure(f"{backend.name}: decode {sequences} x {length}{cache}", read / seconds / 1e12, "TB/s", limit)
    for length in [64] if context.is_tiny else [2048, 8192, 32_768]:
        kv, batch, group = _cache(backend, _QWEN, [(0, length)], device, torch.bfloat16, torch.bfloat16)
        for part in kv.parts.values():
            part.zero_()
        q = torch.randn(length, _QWEN.num_heads, _QWEN.head_dim, device=device).bfloat16()
        try:
            seconds = seconds_of(context, lambda: backend.forward(q, kv, batch, group, _QWEN), repeats=5)  # noqa: B023
        except RuntimeError as error:  # plain torch needs a matrix of scores
            yield Figure(f"{backend.name}: prompt of {length}", None, note=f"{error}"[:200])
            continue
        flops = 2 * 2 * _QWEN.num_heads * _QWEN.head_dim * length * length / 2
        limit = 350.0 if length == 8192 else None
        yield Figure(f"{backend.name}: prompt of {length}", flops / seconds / 1e12, "TFLOP/s", limit)


def sanitized(context: Context) -> Iterator[Figure]:
    """Run the comparison under compute-sanitizer, which finds accesses out of bounds and misaligned ones."""
    if (program := shutil.which("compute-sanitizer")) is None:
        yield Figure("compute-sanitizer", None, note="not on this machine")
        return
    command = [program, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu_check", "--child"]
    options = ["--device", str(context.device), "--out", str(context.folder / "sanitized.json")]
    code = subprocess.run([*command, "attention right", *options], check=False).returncode
    yield Figure("compute-sanitizer finds nothing", float(code == 0), limit=1, note="" if code == 0 else f"code {code}")
