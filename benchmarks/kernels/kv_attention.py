"""Time of attention over each dtype of the KV cache, on one thread, and its ratio to the cache in bf16.

    .venv/bin/python -m benchmarks.kernels.kv_attention [--rounds 5]

Caches are random, with the heads of three models. The dtypes are measured in turns, and a figure is the median of the
thread's processor time, which other processes disturb less than they disturb wall time. Layers are as many as exceed
the L2 cache.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping

import torch

from benchmarks.results import machine_name
from benchmarks.tables import markdown
from models.architecture.attention import AttentionSpec
from models.attention.cpu import CpuAttention
from models.batch import KVGroupBatch, forward_batch
from models.kernels.cpu.library import required_library, set_num_threads
from models.kv.layer import LayerKV, allocate_layer_kv

_CPU, _BLOCK_SIZE, _WRITTEN = torch.device("cpu"), 16, 4096
_LAYERS_BYTES = 24_000_000  # of a bf16 cache
SPECS: Mapping[str, AttentionSpec] = {
    "SmolLM2 135M": AttentionSpec(9, 3, 64, 0.125),
    "Qwen2.5 0.5B": AttentionSpec(14, 2, 64, 0.125),
    "Qwen2.5 1.5B": AttentionSpec(12, 2, 128, 0.088),
}
CASES = [(1, 1, 512), (1, 1, 8192), (1, 1, 32768), (8, 1, 4096), (1, 64, 28500)]  # sequences, rows of each, context
DTYPES = {"bf16": torch.bfloat16, "int8": torch.int8, "int4": torch.int4, "fp8_e4m3": torch.float8_e4m3fn}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.kernels.kv_attention", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    set_num_threads(1)
    backend, lines = CpuAttention(required_library()), []
    for name, spec in SPECS.items():
        for num_seqs, num_rows, context in CASES:
            times = _median_ms(backend, spec, num_seqs, num_rows, context, options.rounds)
            case = f"{num_seqs} x {num_rows} at {context:,}"
            lines.append([name, case, *(f"{ms:.3f} ms ({times['bf16'] / ms:.2f})" for ms in times.values())])
    sys.stdout.write(f"On {machine_name()}; sequences x rows at a context.\n\n")
    sys.stdout.write(markdown(["heads of", "step", *DTYPES], lines) + "\n")
    return 0


def _median_ms(
    backend: CpuAttention, spec: AttentionSpec, num_seqs: int, num_rows: int, context: int, rounds: int
) -> dict[str, float]:
    """Return the time of one layer's attention by dtype."""
    generator = torch.Generator().manual_seed(0)
    blocks_each = -(-context // _BLOCK_SIZE)
    num_blocks = num_seqs * blocks_each
    table = torch.randperm(num_blocks, generator=generator, dtype=torch.int32).view(num_seqs, blocks_each)
    total = num_seqs * num_rows
    starts = [context - num_rows] * num_seqs
    batch = forward_batch(
        [0] * total, [num_rows] * num_seqs, [table], block_size=_BLOCK_SIZE, device=_CPU, starts=starts
    )
    group = batch.groups[0]
    assert isinstance(group, KVGroupBatch)
    q = torch.randn(total, spec.num_heads, spec.head_dim, generator=generator).bfloat16()
    num_layers = max(1, _LAYERS_BYTES // (num_blocks * _BLOCK_SIZE * spec.num_kv_heads * spec.head_dim * 4))
    layers = {
        name: [_random_kv(backend, spec, num_blocks, dtype) for _ in range(num_layers)]
        for name, dtype in DTYPES.items()
    }
    times: dict[str, list[float]] = {name: [] for name in DTYPES}
    for _ in range(rounds + 1):
        for name, caches in layers.items():
            start_s = time.thread_time()
            for kv in caches:
                backend.forward(q, kv, batch, group, spec)
            times[name].append((time.thread_time() - start_s) * 1000 / num_layers)
    return {name: statistics.median(each[1:]) for name, each in times.items()}  # the first round warms up


def _random_kv(backend: CpuAttention, spec: AttentionSpec, num_blocks: int, dtype: torch.dtype) -> LayerKV:
    kv = allocate_layer_kv(backend.layout(spec, torch.bfloat16, dtype), num_blocks, _BLOCK_SIZE, _CPU)
    heads = torch.randn(_WRITTEN, spec.num_kv_heads, spec.head_dim, generator=torch.Generator().manual_seed(1))
    heads = heads.bfloat16()
    for slots in torch.arange(num_blocks * _BLOCK_SIZE).split(_WRITTEN):
        group = KVGroupBatch(slots, torch.zeros(1, 1, dtype=torch.int32), _BLOCK_SIZE)
        backend.write(kv, heads[: len(slots)], heads[: len(slots)], group)
    return kv


if __name__ == "__main__":
    sys.exit(main())
