"""Stage "memory": the measured peak of a full step, and steps that find too little memory."""

from collections.abc import Iterator

import torch

from benchmarks.gpu_check.figures import Figure
from benchmarks.gpu_check.random_models import random_engine
from benchmarks.gpu_check.stages import Context
from engine.commands.bench.drive import RequestMaker, run_batch
from engine.engine import Engine
from models.system import cuda

_LEFT_BYTES = 256 << 20  # for the steps that are to run out of memory


def memory(context: Context) -> Iterator[Figure]:
    with random_engine(context, "Qwen3-0.6B", gpu_memory_utilization=0.5) as (engine, info):
        free, total = cuda.memory_bytes(context.device)
        yield Figure("memory in use at a share of 0.5", (total - free) / total, limit=0.52, more_is_better=False)
        maker = RequestMaker(info.vocab_size, seed=0)
        requests = [maker.request(maker.ids(4000), 16) for _ in range(64)]
        cuda.reset_peak(context.device)
        run_batch(engine, requests)
        peak, _ = cuda.peak_bytes(context.device)
        yield Figure("peak under load, of the share", peak / total / 0.5, limit=1.0, more_is_better=False)
        yield _shortage(context, engine, maker)


def _shortage(context: Context, engine: Engine, maker: RequestMaker) -> Figure:
    """Take nearly all memory, and compute prompts that need more."""
    torch.cuda.empty_cache()
    free, _ = cuda.memory_bytes(context.device)
    ballast = torch.empty(max(0, free - _LEFT_BYTES), dtype=torch.uint8, device=context.device)
    try:
        requests = [maker.request(maker.ids(6000), 8) for _ in range(16)]
        run = run_batch(engine, requests)
    finally:
        del ballast
    return Figure("tokens in spite of a shortage", run.output_tokens, limit=16 * 8)
