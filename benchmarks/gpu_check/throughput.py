"""Stages "throughput" and "compile": the engine without HTTP, with random weights of published models' sizes."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.figures import Figure
from benchmarks.gpu_check.random_models import engine_config, model_folder, random_engine
from benchmarks.gpu_check.stages import Context
from engine.commands.bench.drive import RequestMaker, run_batch
from engine.config import Quantization
from engine.engine import Engine
from engine.protocol import EngineInfo
from engine.startup.build import build_engine

_CONTEXT, _DECODED = 512, 128  # tokens of each prompt and answer, about the mean of vLLM's published runs
_COMPILERS = 16


@dataclass(frozen=True, slots=True)
class Load:
    """A model in one format. limits: milliseconds of a decode step by streams. published: vLLM's."""

    model: str
    options: dict[str, Any]
    limits: dict[int, float | None]
    published: dict[int, float]
    prompts: Sequence[int] = ()

    @property
    def name(self) -> str:
        quantization = self.options.get("quantization")
        return self.model if quantization is None else f"{self.model} {quantization.value}"


LOADS = (
    Load("Qwen3-8B", {}, {1: 6.4, 32: 7.6, 2: None, 4: None, 16: None, 64: None, 128: None, 256: 18.1},
         {1: 6.86, 4: 7.01, 16: 7.53, 32: 8.11, 64: 9.49, 128: 12.0, 256: 18.1}, (1024, 8192, 32_768)),
    Load("Qwen3-0.6B", {}, {1: 0.7, 32: 1.6, 256: 8.0}, {}, (1024, 8192)),
    Load("Qwen3-8B", {"quantization": Quantization.FP8}, {1: 3.8, 32: None, 256: None}, {1: 4.66, 32: 6.03, 256: 16.1}),
    Load("Qwen3-8B", {"quantization": Quantization.INT4}, {1: 3.6, 32: None, 256: None}, {}),
    Load("Qwen3-30B-A3B", {}, {1: 4.0, 32: None}, {}),
)  # fmt: skip
_PROMPT_PUBLISHED = {1024: 34.3, 8192: 253.9}  # vLLM's p95 of the first token, over HTTP
_NANO_MODEL = "Qwen3-0.6B"
_NANO_REQUESTS = 256  # of nano-vllm's own benchmark, each of 100 to 1,024 tokens in and out


def throughput(context: Context) -> Iterator[Figure]:
    for load in LOADS:
        started_s = time.perf_counter()
        try:
            with random_engine(context, load.model, **load.options) as (engine, info):
                yield Figure(f"{load.name}: start", time.perf_counter() - started_s, "s", 15.0, more_is_better=False)
                yield from _of_engine(context, load, engine, info)
        except Exception as error:  # noqa: BLE001 - one model that does not run must not take the others' figures
            yield Figure(f"{load.name}", None, limit=0, note=f"{type(error).__name__}: {error}"[:300])


def _of_engine(context: Context, load: Load, engine: Engine, info: EngineInfo) -> Iterator[Figure]:
    maker = RequestMaker(info.vocab_size, seed=0)
    for streams, limit in load.limits.items():
        if context.is_tiny and streams > info.max_num_seqs:
            continue
        step_s = decode_step_s(engine, maker, streams, is_tiny=context.is_tiny)
        published = load.published.get(streams)
        yield Figure(f"{load.name}: step of {streams}", step_s * 1000, "ms", limit, False, published)
        rate, of_vllm = streams / step_s, None if published is None else streams / published * 1000
        yield Figure(f"{load.name}: {streams} streams", rate, "tokens/s", published=of_vllm)
    for length in load.prompts:
        length = min(length, info.max_model_len // 2) if context.is_tiny else length
        run_batch(engine, [maker.request(maker.ids(length), 1)])  # learns how many tokens a step may have
        first_s = run_batch(engine, [maker.request(maker.ids(length), 1)]).first_token_s
        yield Figure(f"{load.name}: prompt of {length}", first_s * 1000, "ms", published=_PROMPT_PUBLISHED.get(length))
    if load.model == _NANO_MODEL:
        yield Figure("nano-vllm's benchmark", nano_rate(engine, info, is_tiny=context.is_tiny), "tokens/s")


def decode_step_s(engine: Engine, maker: RequestMaker, streams: int, *, is_tiny: bool) -> float:
    """Return the seconds of a step in which `streams` sequences get a token each, without the prompts' steps."""
    context, decoded = (16, 8) if is_tiny else (_CONTEXT, _DECODED)
    run = run_batch(engine, [maker.request(maker.ids(context), decoded) for _ in range(streams)])
    return (run.total_s - run.first_token_s) / (decoded - 1)


def nano_rate(engine: Engine, info: EngineInfo, *, is_tiny: bool) -> float:
    """Return tokens generated a second by the load of nano-vllm's own benchmark."""
    count, low, high = (4, 10, 40) if is_tiny else (_NANO_REQUESTS, 100, 1024)
    rng, maker = random.Random(0), RequestMaker(info.vocab_size, seed=1)
    requests = [maker.request(maker.ids(rng.randint(low, high)), rng.randint(low, high)) for _ in range(count)]
    run = run_batch(engine, requests)
    return run.output_tokens / run.total_s


def compile_kernels(context: Context) -> Iterator[Figure]:
    """Compile the kernels of all loads, in processes side by side, into the cache that the next stages use."""
    started_s = time.perf_counter()
    command = [sys.executable, "-m", __spec__.name, str(context.device)]
    running: list[tuple[str, subprocess.Popen[bytes]]] = []
    for number, load in enumerate(LOADS[: min(_COMPILERS, os.cpu_count() or 1)]):
        running.append((load.name, subprocess.Popen([*command, str(number), str(context.folder)])))
    for name, process in running:
        code = process.wait()
        yield Figure(f"{name} compiles", float(code == 0), limit=1, note="" if code == 0 else f"ended with {code}")
    yield Figure("all kernels", time.perf_counter() - started_s, "s")


def _compile_one(device: str, number: int, folder: str) -> None:
    """Compute steps of all sizes with two layers of a load's model."""
    load = LOADS[number]
    own = Path(folder) / f"compiler-{number}"
    own.mkdir()
    context = Context(torch.device(device), own, is_tiny=False)
    small = model_folder(context, load.model, num_hidden_layers=2)
    # As many compilers share the device's memory as there are loads.
    options = {**load.options, "kv_cache_memory_bytes": 1 << 30}
    engine, info = build_engine(engine_config(context, small, **options), lambda *_: None)
    maker = RequestMaker(info.vocab_size, seed=0)
    for streams in load.limits:
        run_batch(engine, [maker.request(maker.ids(64), 4) for _ in range(streams)])
    for length in (128, 1024, 4096):
        run_batch(engine, [maker.request(maker.ids(length), 1)])


if __name__ == "__main__":
    _compile_one(sys.argv[1], int(sys.argv[2]), sys.argv[3])
