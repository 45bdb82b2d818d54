"""Runs batches of synthetic requests through an engine, and times them."""

import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from engine.engine import Engine
from engine.errors import StartupError
from engine.protocol import EngineInfo, EngineRequest, SamplingParams
from engine.scheduling.kv.groups import KVGroup, peak_blocks


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and range of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])

    def scaled(self, function: Callable[[float], float]) -> "Spread":
        """Return the spread of a monotonic function of the measurement, such as a rate from a time."""
        low, high = sorted((function(self.low), function(self.high)))
        return Spread(function(self.median), low, high)

    def show(self, digits: int = 1, separator: str = " ") -> str:
        return f"{self.median:,.{digits}f}{separator}({self.low:,.{digits}f}-{self.high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class BatchRun:
    """The measurements of one batch, from its first step to its last token."""

    first_token_s: float  # seconds until every sequence had its first token
    total_s: float
    prompt_tokens: int
    output_tokens: int


def run_batch(engine: Engine, requests: Sequence[EngineRequest]) -> BatchRun:
    """Add all requests to the engine, and step until they have ended. Raises StartupError if one fails."""
    for request in requests:
        engine.add(request)
    waiting = {request.id for request in requests}
    first_token_s = 0.0
    num_output = 0
    began_s = time.perf_counter()
    while engine.has_work:
        outputs = engine.step().outputs
        num_output += sum(len(output.new_ids) for output in outputs)
        if failed := [output.error for output in outputs if output.error is not None]:
            raise StartupError(f"the engine refused a request of the benchmark: {failed[0]}")
        if waiting:
            waiting -= {output.id for output in outputs if output.new_ids}
            first_token_s = time.perf_counter() - began_s
    total_s = time.perf_counter() - began_s
    return BatchRun(first_token_s, total_s, sum(len(request.prompt_ids) for request in requests), num_output)


class RequestMaker:
    """Source of greedy requests with random prompts, all different, so that none hits the prefix cache."""

    def __init__(self, vocab_size: int, seed: int) -> None:
        self._vocab_size = vocab_size
        self._rng = random.Random(seed)
        self._count = 0

    def ids(self, length: int) -> list[int]:
        return [self._rng.randrange(self._vocab_size) for _ in range(length)]

    def request(self, prompt_ids: list[int], output_len: int) -> EngineRequest:
        """Make a request that generates exactly `output_len` tokens."""
        self._count += 1
        sampling = SamplingParams(max_tokens=output_len, temperature=0.0, ignore_eos=True)
        return EngineRequest(
            id=f"bench-{self._count}", prompt_ids=prompt_ids, sampling=sampling, arrival_s=time.monotonic()
        )


def check_fits(info: EngineInfo, *, batch_size: int, tokens_each: int) -> None:
    """Raise StartupError unless `batch_size` sequences of this length can run together without preemptions."""
    if tokens_each > info.max_model_len:
        raise StartupError(
            f"prompt and output have {tokens_each:,} tokens; this engine takes {info.max_model_len:,}; shorten them"
        )
    if batch_size > info.max_num_seqs:
        raise StartupError(
            f"a batch of {batch_size} was requested, and --max-num-seqs is {info.max_num_seqs}; raise it, or "
            "--max-num-batched-tokens if that bounds it"
        )
    if info.num_states and batch_size > info.num_states:
        raise StartupError(
            f"a batch of {batch_size} was requested, and each sequence needs a recurrent state; there are "
            f"{info.num_states:,}; raise --kv-cache-memory-bytes"
        )
    groups = tuple(map(KVGroup, info.kv_block_sizes, info.kv_windows))
    blocks_each = peak_blocks(groups, tokens_each) if groups else 0
    if batch_size * blocks_each > info.num_blocks:
        raise StartupError(
            f"{batch_size} sequences of {tokens_each:,} tokens need {batch_size * blocks_each:,} KV blocks; the cache "
            f"has {info.num_blocks:,}; raise --kv-cache-memory-bytes"
        )
