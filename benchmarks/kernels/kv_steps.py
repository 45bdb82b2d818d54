"""Decode steps of a whole model over each dtype of the KV cache, and their ratios to the cache in bf16.

    .venv/bin/python -m benchmarks.kernels.kv_steps model.gguf [--sequences 8] [--context 4000] [--threads 1]

Steps are forward passes without the engine, over blocks in random order whose contents repeat a short text's. The
dtypes take turns; a ratio is the median over the rounds. Keys of int4 have their centers, as in an engine.
"""

import argparse
import dataclasses
import random
import statistics
import sys
import time

import torch

from benchmarks.results import machine_name
from benchmarks.tables import markdown
from models.architecture.kv_layout import KV_DTYPES
from models.batch import ForwardBatch, forward_batch
from models.errors import ModelError
from models.forward.chunk_batches import BLOCK_SIZE, step_batches
from models.forward.key_centers import center_keys
from models.kernels.cpu.library import set_num_threads
from models.kv.layer import LayerCache, LayerKV
from models.loaded_model import LoadedModel
from models.loading.load import LoadOptions, load_model
from models.sources.resolve import resolve_model

_TEXT_LEN = 256  # of the repeated text; whole blocks
_MAX_ID = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.kernels.kv_steps", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--dtypes", nargs="+", choices=list(KV_DTYPES), default=["int8", "fp8_e4m3"])
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--context", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    set_num_threads(options.threads)
    try:
        model = load_model(resolve_model(options.model, None, _ignore), LoadOptions(dtype="bfloat16"), _ignore)
    except (ModelError, OSError) as error:
        sys.stderr.write(f"kv_steps: {error}\n")
        return 1
    model.decoder.serve_context(model.max_position)
    if "int4" in options.dtypes:  # attention uses centers with int4 alone
        center_keys(model.decoder, dataclasses.replace(model.compute, kv_dtype=KV_DTYPES["int4"]), model.max_position)
    times = measure(model, ["bfloat16", *options.dtypes], options.sequences, options.context, options.rounds)
    lines = []
    for name, each in times.items():
        ratios = sorted(base / ms for base, ms in zip(times["bfloat16"], each, strict=True))
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        lines.append([name, f"{statistics.median(each):.2f} ms", ratio])
    size = f"{options.sequences} sequences of {options.context:,} tokens, {options.threads} threads"
    sys.stdout.write(f"On {machine_name()}; {size}.\n\n")
    sys.stdout.write(markdown(["KV cache", "step", "bf16's over it"], lines) + "\n")
    return 0


@torch.inference_mode()
def measure(
    model: LoadedModel, dtypes: list[str], num_seqs: int, context: int, num_rounds: int
) -> dict[str, list[float]]:
    """Return the milliseconds of each round's step by dtype, names of KV_DTYPES."""
    blocks_each = -(-context // BLOCK_SIZE)
    order = torch.randperm(num_seqs * blocks_each, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    tables = order.view(num_seqs, blocks_each)
    caches = {name: _filled_cache(model, name, len(order)) for name in dtypes}
    times: dict[str, list[float]] = {name: [] for name in dtypes}
    for number in range(num_rounds + 1):
        for name in dtypes[:: 1 if number % 2 else -1]:
            batch = _decode_batch(model, tables, num_seqs, context)
            start_s = time.perf_counter()
            model.decoder.logits(model.decoder(batch, caches[name]))
            times[name].append((time.perf_counter() - start_s) * 1000)
    return {name: each[1:] for name, each in times.items()}  # the first round warms up


def _decode_batch(model: LoadedModel, tables: torch.Tensor, num_seqs: int, context: int) -> ForwardBatch:
    starts = [context - 1] * num_seqs
    ids, lens = [1] * num_seqs, [1] * num_seqs
    return forward_batch(ids, lens, [tables], block_size=BLOCK_SIZE, device=model.device, starts=starts)


def _filled_cache(model: LoadedModel, kv_dtype: str, num_blocks: int) -> list[LayerCache]:
    """Allocate a cache, and repeat a text's keys and values in it: computing the contexts would take minutes."""
    compute = dataclasses.replace(model.compute, kv_dtype=KV_DTYPES[kv_dtype])
    layout = compute.cache_layout(model.decoder.mixers)
    short, kv = (
        layout.allocate_unshared(count, BLOCK_SIZE, model.device, num_states=1)
        for count in (_TEXT_LEN // BLOCK_SIZE, num_blocks)
    )
    ids = random.Random(0).choices(range(_MAX_ID), k=_TEXT_LEN)
    for batch in step_batches(ids, layout.groups, model.device):
        model.decoder(batch, short)
    for source, target in zip(short, kv, strict=True):
        assert isinstance(source, LayerKV)
        assert isinstance(target, LayerKV)
        for name, part in target.parts.items():
            text = source.parts[name]
            for first in range(0, len(part), len(text)):
                part[first : first + len(text)] = text[: len(part) - first]
    return kv


def _ignore(*_: object) -> None:
    """Report no progress of loading."""


if __name__ == "__main__":
    sys.exit(main())
