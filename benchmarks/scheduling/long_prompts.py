"""Effect of a long prompt on running streams and on a short prompt behind it, and their effect on the long prompt.

    .venv/bin/python -m benchmarks.scheduling.long_prompts MODEL.gguf
    .venv/bin/python -m benchmarks.scheduling.long_prompts MODEL.gguf --cpu-time      # on a machine that others use

At the beginning, in the middle and at the end of a prompt of `--tokens` tokens, `--window` of them are computed: alone,
and with streams. The tokens before them count as cached, with random keys and values, which take as long as others but
save minutes of prefill. With `--cpu-time` there is one thread, and its processor time is measured; other programs then
disturb caches and memory, but take no time.
"""

import argparse
import statistics
import sys
import time
from collections import abc
from dataclasses import dataclass
from itertools import pairwise

import torch

from benchmarks.engine_clients import EngineClients, Sent
from engine.commands.bench.processor import processor_name
from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import EngineRequest, SamplingParams, StepOutputs
from engine.scheduling.kv.prefixes import group_key
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.cost import StepSample
from engine.startup.build import build_engine


@dataclass(frozen=True, slots=True)
class Step:
    """A step that computed a part of a prompt. Times in milliseconds."""

    num_prompt: int
    expected_ms: float  # predicted from earlier steps
    forward_ms: float
    rest_ms: float  # the scheduler's and the sampler's


class StepWatch:
    """A record of an engine's steps, by the calls in each."""

    def __init__(self, engine: Engine) -> None:
        self.steps: list[Step] = []
        self._budget = engine._budget
        self._engine_step = engine.step
        self._observe = self._budget.observe
        self._sample: StepSample | None = None
        self._expected_s = 0.0
        self._budget.observe = self._note_sample  # type: ignore[method-assign]
        engine.step = self._step  # type: ignore[method-assign]

    def _note_sample(self, sample: StepSample) -> None:
        cost = self._budget._cost
        self._sample = sample
        of_tokens_s = sample.num_prompt_tokens * cost.prompt_token_s(sample.position)
        self._expected_s = cost.decode_s + of_tokens_s + sample.num_prompts * cost.prompt_s(sample.position)
        self._observe(sample)

    def _step(self) -> StepOutputs:
        self._sample = None
        outputs = self._engine_step()
        stats, sample = outputs.stats, self._sample
        if sample is not None and sample.num_prompt_tokens:
            forward_ms = stats.forward_s * 1000
            rest_ms = stats.step_s * 1000 - forward_ms
            self.steps.append(Step(sample.num_prompt_tokens, self._expected_s * 1000, forward_ms, rest_ms))
        return outputs


_STREAM_PROMPT, _SHORT_PROMPT = 50, 200
_KV_BYTES = 1 << 30


class LongPrompts:
    def __init__(self, engine: Engine, clients: EngineClients, options: argparse.Namespace) -> None:
        self._engine = engine
        self._watch = StepWatch(engine)
        self._clients = clients
        self._options = options
        self._prompt = clients.random_ids(options.tokens)
        for cache in engine._runner._kv:  # type: ignore[attr-defined]
            if isinstance(cache, torch.Tensor) and cache.is_floating_point():
                cache.normal_()

    def measure_at(self, begin: int) -> None:
        """Compute a window from `begin` on, alone and with streams."""
        alone_s = self._compute(begin).ttft_s
        streams = self._begin_streams()
        plain_ms = _gaps_ms(streams, 0.0)
        begin_s = self._clients.now_s
        self._watch.steps.clear()
        beside_s = self._compute(begin).ttft_s
        steps = list(self._watch.steps)
        gaps_ms = _gaps_ms(streams, begin_s)
        self._clients.leave()
        _print(
            f"tokens {begin:,} to {begin + self._options.window:,}: {self._options.window / alone_s:.0f} tokens/s "
            f"alone, {alone_s / beside_s:.0%} of it beside {len(streams)} streams; their gaps p50 "
            f"{_percentile(gaps_ms, 50):.0f}, p99 {_percentile(gaps_ms, 99):.0f}, longest {gaps_ms[-1]:.0f} ms; before "
            f"it p50 {_percentile(plain_ms, 50):.0f}, p99 {_percentile(plain_ms, 99):.0f} ms"
        )
        ratios = [(step.forward_ms + step.rest_ms) / step.expected_ms for step in steps]
        _print(
            f"  its {len(steps)} steps: {_percentile([step.num_prompt for step in steps], 50):.0f} of its tokens, "
            f"{_percentile([step.rest_ms for step in steps], 50):.1f} ms beside the forward pass; over what was "
            "expected: "
            f"the first {ratios[0]:.2f}, p50 {_percentile(ratios, 50):.2f}, p90 {_percentile(ratios, 90):.2f}, "
            f"p99 {_percentile(ratios, 99):.2f}; the longest (tokens, expected, forward, rest): "
            + ", ".join(
                f"({step.num_prompt}, {step.expected_ms:.0f}, {step.forward_ms:.0f}, {step.rest_ms:.1f})"
                for step in sorted(steps, key=lambda step: -step.forward_ms - step.rest_ms)[:4]
            )
        )

    def short_behind(self, num_streams: int) -> float:
        """Return the seconds to the first token of a short prompt that arrives after a long one has started."""
        self._begin_streams(num_streams)
        self._clients.send_ids(self._clients.random_ids(self._options.tokens), 1)
        self._wait(1.5)
        short = self._clients.send(_SHORT_PROMPT, 1)
        self._clients.run(lambda: bool(short.token_s))
        self._clients.leave()
        return short.ttft_s

    def short_alone(self) -> float:
        short = self._clients.send(_SHORT_PROMPT, 1)
        self._clients.run(lambda: short.is_ended)
        return short.ttft_s

    def _compute(self, begin: int) -> Sent:
        """Compute a window of tokens after the first `begin` of the prompt, up to the token after it."""
        if begin:
            self._plant(self._prompt[:begin])
        sent = self._clients.send_ids([*self._prompt[:begin], *self._clients.random_ids(self._options.window)], 1)
        self._clients.run(lambda: sent.is_ended)
        assert sent.token_s, "the request failed"
        return sent

    def _plant(self, prompt_ids: list[int]) -> None:
        """Mark a prompt as cached without computing its blocks."""
        kv = self._engine._scheduler._kv
        sampling = SamplingParams(max_tokens=1)
        request = EngineRequest(id="planted", prompt_ids=prompt_ids, sampling=sampling, arrival_s=0.0)
        sequence = Sequence(request=request, seed=0, tokens=prompt_ids, num_prompt=len(prompt_ids))
        kv.extend_hashes(sequence)
        missing = [digest for digest in sequence.unit_hashes if kv.pool.find(group_key(0, digest)) is None]
        blocks = kv.pool.allocate(len(missing))
        for block, digest in zip(blocks, missing, strict=True):
            kv.pool.register(block, group_key(0, digest))
        kv.pool.free(blocks)

    def _begin_streams(self, num_streams: int | None = None) -> list[Sent]:
        """Start streams that do not end by themselves, and run them for some seconds."""
        num_streams = self._options.streams if num_streams is None else num_streams
        streams = [self._clients.send(_STREAM_PROMPT, 4000) for _ in range(num_streams)]
        self._clients.run(lambda: all(stream.token_s for stream in streams))
        if streams:
            self._wait(3)
        return streams

    def _wait(self, seconds: float) -> None:
        end_s = self._clients.now_s + seconds
        self._clients.run(lambda: self._clients.now_s >= end_s)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.scheduling.long_prompts", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model", help="with full attention alone")
    parser.add_argument("--tokens", type=int, default=30_000, help="of the long prompt")
    parser.add_argument("--window", type=int, default=1500, help="tokens computed at each position")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--max-num-batched-tokens", type=int)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and the time that it computes")
    options = parser.parse_args()
    if options.cpu_time:
        time.perf_counter = time.process_time  # the engine's clock of steps
    config = EngineConfig(
        model=options.model,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_num_seqs=16,
        kv_cache_memory_bytes=_KV_BYTES,
        threads=1 if options.cpu_time else None,
    )
    engine, info = build_engine(config, lambda *_: None)
    assert info.kv_windows == [None], "prefixes are planted in full attention alone"
    clients = EngineClients(engine, info.vocab_size, clock=time.process_time if options.cpu_time else time.monotonic)
    long_prompts = LongPrompts(engine, clients, options)
    clock = "seconds of one thread" if options.cpu_time else f"{torch.get_num_threads()} threads"
    _print(f"{processor_name()}, {options.model}, {clock}")
    for begin in (0, (options.tokens - options.window) // 2, options.tokens - options.window):
        long_prompts.measure_at(begin)
    short_ms = [long_prompts.short_alone(), long_prompts.short_behind(0), long_prompts.short_behind(options.streams)]
    alone, behind, beside = (each * 1000 for each in short_ms)
    _print(
        f"first token of {_SHORT_PROMPT} tokens: {alone:.0f} ms alone, {behind:.0f} ms behind {options.tokens:,}, "
        f"{beside:.0f} ms with {options.streams} streams too"
    )
    return 0


def _gaps_ms(streams: list[Sent], begin_s: float) -> list[float]:
    """Return the sorted gaps before tokens that came after `begin_s`."""
    gaps_ms: list[float] = []
    for stream in streams:
        gaps_ms += [(later - earlier) * 1000 for earlier, later in pairwise(stream.token_s) if later >= begin_s]
    return sorted(gaps_ms)


def _percentile(values: abc.Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
