"""Cost of masks for a step of sequences with a schema each, by the time at which they are computed.

    python -m benchmarks.structured_outputs.mask_steps MODEL.gguf --streams 16

One engine generates, and its steps alternate: masks after the model's pass, and during it, as in headrace. So other
work of the machine affects both alike. The table has medians over steps, and over the ratios of consecutive steps.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import torch

from benchmarks.results import machine_name
from engine.config import Device, EngineConfig
from engine.engine import Engine
from engine.protocol import AbortReason, EngineRequest, SamplingParams
from engine.sampling.grammar_masks import GrammarMasks
from engine.sampling.masks_ahead import NO_MASKS
from engine.startup.build import build_engine

_KV_BYTES = 1 << 30
_AFTER, _BESIDE = "after the pass", "beside it"
_STRINGS: dict[str, dict[str, Any]] = {
    "any text": {"minLength": 150, "maxLength": 400},
    "words": {"pattern": r"^(\S+\s+){20,60}\S+$"},
}
_SAMPLING: dict[str, dict[str, Any]] = {
    "top_k 20": {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    "temperature 1": {"temperature": 1.0},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.structured_outputs.mask_steps", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model", help="a GGUF file or a folder")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--steps", type=int, default=300, help="of each case")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    config = EngineConfig(
        model=options.model,
        max_num_seqs=options.streams,
        kv_cache_memory_bytes=_KV_BYTES,
        device=Device(options.device),
    )
    engine, info = build_engine(config, lambda *_: None)
    masks: GrammarMasks = engine._runner._sampler._editor.masks
    threads = f"{torch.get_num_threads()} threads"
    _say(f"On {machine_name()}, {threads}; {options.streams} streams, {info.vocab_size:,} tokens.\n")
    _say("| string | tokens | masks | waited for, ms a step | of the step | step, ms | ratio |")
    _say("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for string, schema in _STRINGS.items():
        for sampling, fields in _SAMPLING.items():
            requests = _requests(f"{string}, {sampling}", schema, fields)
            step_ms, mask_ms = _measure(engine, masks, requests, options)
            for way in step_ms:
                waited = [f"{_median(mask_ms[way]):.2f}", f"{_share(mask_ms[way], step_ms[way]):.1%}"]
                whole = [f"{_median(step_ms[way]):.1f}", f"{_ratio(step_ms[way], step_ms[_AFTER]):.3f}"]
                _say(f"| {' | '.join([string, sampling, way, *waited, *whole])} |")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _requests(name: str, schema: dict[str, Any], sampling: dict[str, Any]) -> Iterator[EngineRequest]:
    """Yield endless requests, each with a different schema."""
    number = 0
    while True:
        number += 1
        fields = {"type": "object", "properties": {f"text_{number}": {"type": "string", **schema}}}
        closed = {**fields, "required": [f"text_{number}"], "x-guidance": {"whitespace_flexible": False}}
        yield EngineRequest(
            id=f"{name} {number}",
            prompt_ids=list(range(1000 + number, 1032 + number)),
            sampling=SamplingParams(max_tokens=200, seed=number, **sampling),
            arrival_s=time.monotonic(),
            grammar=json.dumps({"grammars": [{"json_schema": closed}]}),
        )


def _measure(
    engine: Engine, masks: GrammarMasks, requests: Iterator[EngineRequest], options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return (times of steps that generate for all streams, their waits for grammars) in ms, by way."""
    ways = cycle((_AFTER, _BESIDE))
    step_ms: dict[str, list[float]] = {_AFTER: [], _BESIDE: []}
    mask_ms: dict[str, list[float]] = {_AFTER: [], _BESIDE: []}
    start = masks.start
    running: set[str] = set()
    while len(step_ms[_BESIDE]) < options.steps // 2:
        while len(running) < options.streams:
            request = next(requests)
            running.add(request.id)
            engine.add(request)
        if not engine.has_work:
            engine.wait_for_prepared()
        way = next(ways)
        masks.start = start if way == _BESIDE else lambda *_: NO_MASKS
        start_s = time.perf_counter()
        result = engine.step()
        elapsed_ms = (time.perf_counter() - start_s) * 1000
        running -= {output.id for output in result.outputs if output.finish_reason is not None}
        if result.stats.prefill_tokens == 0 and result.stats.decode_tokens >= options.streams:
            step_ms[way].append(elapsed_ms)
            mask_ms[way].append(result.stats.mask_s * 1000)
    masks.start = start
    for id in running:
        engine.abort(id, AbortReason.CLIENT_GONE)
    while engine.has_work:
        engine.step()
    return step_ms, mask_ms


def _median(values: list[float]) -> float:
    return statistics.median(values)


def _share(parts: list[float], wholes: list[float]) -> float:
    return _median([part / whole for part, whole in zip(parts, wholes, strict=True)])


def _ratio(times: list[float], others: list[float]) -> float:
    return _median([time / other for time, other in zip(times, others, strict=False)])


if __name__ == "__main__":
    sys.exit(main())
