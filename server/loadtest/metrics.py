"""Latencies of each request of a load, and their summary: pure arithmetic on traces."""

import enum
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.errors import OptionError


@dataclass(slots=True)
class Trace:
    """One request as its client measured it. Times are seconds of one monotonic clock.

    Token counts are the server's, from `usage`: a chunk may contain several tokens, or none.
    """

    sent_s: float
    text_s: list[float] = field(default_factory=list)  # arrival of each chunk that carried text
    last_s: float = math.nan  # arrival of the last chunk with a choice, which has the finish reason
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = None  # prompt tokens from the server's cache; None if not reported
    text: str = ""
    error: str | None = None

    @property
    def first_s(self) -> float:
        """Arrival of the first text. Tokens without text, such as special ones, are only seen at the end."""
        return self.text_s[0] if self.text_s else self.last_s

    @property
    def ttft_ms(self) -> float:
        """Time to the first token: from sending to the first streamed text."""
        return (self.first_s - self.sent_s) * 1e3

    @property
    def e2el_ms(self) -> float:
        """End-to-end latency: from sending to the finish reason."""
        return (self.last_s - self.sent_s) * 1e3

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first; None if there is only one token."""
        return (self.last_s - self.first_s) * 1e3 / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def itl_ms(self) -> list[float]:
        """Inter-token latencies: the gaps between chunks with text."""
        return [(after - before) * 1e3 for before, after in itertools.pairwise(self.text_s)]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Mean, standard deviation and percentiles of a sample; all NaN if it is empty."""

    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, sample: Iterable[float]) -> "Distribution":
        values = sorted(sample)
        if not values:
            return cls(*[math.nan] * 7)
        mean = math.fsum(values) / len(values)
        std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        p50, p90, p99 = (percentile(values, share) for share in (0.5, 0.9, 0.99))
        return cls(mean, std, values[0], p50, p90, p99, values[-1])


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0..1) of an ascending, non-empty sample lies, by linear interpolation."""
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


class Latency(enum.StrEnum):
    """Latencies that --goodput can limit."""

    TTFT = "ttft"
    TPOT = "tpot"
    ITL = "itl"
    E2EL = "e2el"


def _positive(text: str) -> float:
    """Return the number. Raises ValueError unless it is positive and finite."""
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError(text)
    return number


def parse_goodput(pairs: Sequence[str]) -> dict[Latency, float]:
    """Return limits in milliseconds from texts such as 'ttft:500'. Raises OptionError for a malformed text."""
    limits: dict[Latency, float] = {}
    for pair in pairs:
        name, _, limit = pair.partition(":")
        try:
            limits[Latency(name)] = _positive(limit)
        except ValueError:
            raise OptionError(
                f"--goodput is {pair!r}; it must be NAME:MS with NAME one of {', '.join(Latency)}, such as ttft:500"
            ) from None
    return limits


def is_good(trace: Trace, limits: Mapping[Latency, float]) -> bool:
    """Whether a finished request meets every limit. The limit for itl applies to its mean gap."""
    gaps = trace.itl_ms
    measured = {
        Latency.TTFT: trace.ttft_ms,
        Latency.TPOT: trace.tpot_ms or 0.0,
        Latency.ITL: math.fsum(gaps) / len(gaps) if gaps else 0.0,
        Latency.E2EL: trace.e2el_ms,
    }
    return all(measured[name] <= limit for name, limit in limits.items())


@dataclass(frozen=True, slots=True)
class Summary:
    """Results of a load. Latencies are in ms, of completed requests; rates are per second of `duration_s`."""

    completed: int
    failed: int
    errors: dict[str, int]  # message -> count
    duration_s: float  # first request sent to last answer
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None  # None if not reported
    request_throughput: float
    output_throughput: float
    total_token_throughput: float
    request_goodput: float | None  # None without limits
    ttft_ms: Distribution
    tpot_ms: Distribution
    itl_ms: Distribution
    e2el_ms: Distribution


def summarize(traces: Sequence[Trace], duration_s: float, limits: Mapping[Latency, float]) -> Summary:
    """Return the summary of all requests of a load. Failed requests only count as failures."""
    completed = [trace for trace in traces if trace.error is None]
    prompt_tokens = sum(trace.prompt_tokens for trace in completed)
    output_tokens = sum(trace.output_tokens for trace in completed)
    cached = [trace.cached_tokens for trace in completed if trace.cached_tokens is not None]
    return Summary(
        completed=len(completed),
        failed=len(traces) - len(completed),
        errors=dict(Counter(trace.error for trace in traces if trace.error is not None).most_common()),
        duration_s=duration_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        cached_tokens=sum(cached) if cached else None,
        request_throughput=len(completed) / duration_s,
        output_throughput=output_tokens / duration_s,
        total_token_throughput=(prompt_tokens + output_tokens) / duration_s,
        request_goodput=sum(is_good(trace, limits) for trace in completed) / duration_s if limits else None,
        ttft_ms=Distribution.of(trace.ttft_ms for trace in completed),
        tpot_ms=Distribution.of(tpot for trace in completed if (tpot := trace.tpot_ms) is not None),
        itl_ms=Distribution.of(gap for trace in completed for gap in trace.itl_ms),
        e2el_ms=Distribution.of(trace.e2el_ms for trace in completed),
    )
