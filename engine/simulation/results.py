"""SimulationResult: the figures of a simulation, each with its origin."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from engine.simulation.fleet import Fleet, RequestFate
from engine.simulation.hardware import SimulatedModel

MODELED = "modeled"  # from the scheduler's decisions and modeled step times
GIVEN = "given"  # by the trace or an option
_SHORT_STEP_S = 1e-3  # of a card: most of a real step is then the launch of kernels (an estimate, not measured)


class Percentiles(msgspec.Struct, frozen=True):
    """Percentiles of one figure over all requests that have it."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Percentiles | None":
        """Return the percentiles by the nearest rank; None without values."""
        ordered = sorted(values)
        if not ordered:
            return None
        ranks = (ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in (0.5, 0.95, 0.99))
        return cls(math.fsum(ordered) / len(ordered), *ranks)


@dataclass(frozen=True, slots=True)
class ReplicaResult:
    """Figures of one replica."""

    requests: int
    utilization: float  # share of the time in which it computes
    prefix_hits: float  # share of prompt tokens that were cached
    preemptions: int


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """Figures of a whole simulation; all are modeled but `requests`, which the load gives. Seconds are virtual."""

    requests: int
    answered: int
    refused: int  # too long for the model or its KV cache
    first_refusal: str | None
    duration_s: float  # from the first request to the end of the last answer
    ttft_s: Percentiles | None
    token_s: Percentiles | None  # time for each token after the first
    request_s: Percentiles | None
    prompt_tokens: int  # of answered requests
    output_tokens: int
    output_tokens_per_s: float
    prefix_hits: float
    utilization: float
    preemptions: int
    recomputed_tokens: int
    steps: int
    cost: float | None
    cost_per_million_output_tokens: float | None
    replicas: list[ReplicaResult]


def simulation_result(fleet: Fleet, fates: Sequence[RequestFate], price: float | None) -> SimulationResult:
    """Return the figures of a fleet that has played a load. price: of a replica for an hour."""
    answered = [fate for fate in fates if fate.ended_s is not None]
    refusals = [fate.refusal for fate in fates if fate.refusal is not None]
    duration_s = max((fate.ended_s or 0.0 for fate in answered), default=0.0)
    tallies = [replica.engine.tally for replica in fleet.replicas]
    output_tokens = sum(fate.request.num_output for fate in answered)
    cost = None if price is None else price * len(tallies) * duration_s / 3600
    counts = [0] * len(tallies)
    for fate in fates:
        counts[fate.replica] += 1
    return SimulationResult(
        requests=len(fates),
        answered=len(answered),
        refused=len(refusals),
        first_refusal=refusals[0] if refusals else None,
        duration_s=duration_s,
        ttft_s=Percentiles.of(fate.ttft_s for fate in answered if fate.ttft_s is not None),
        token_s=Percentiles.of(fate.token_s for fate in answered if fate.token_s is not None),
        request_s=Percentiles.of((fate.ended_s or 0.0) - fate.request.arrival_s for fate in answered),
        prompt_tokens=sum(fate.request.num_prompt for fate in answered),
        output_tokens=output_tokens,
        output_tokens_per_s=_share(output_tokens, duration_s),
        prefix_hits=_share(sum(each.prefix_hits for each in tallies), sum(each.prefix_queries for each in tallies)),
        utilization=_share(sum(each.busy_s for each in tallies), duration_s * len(tallies)),
        preemptions=sum(each.preemptions for each in tallies),
        recomputed_tokens=sum(each.recomputed_tokens for each in tallies),
        steps=sum(each.num_steps for each in tallies),
        cost=cost,
        cost_per_million_output_tokens=_share(cost * 1e6, output_tokens) if cost is not None else None,
        replicas=[
            ReplicaResult(
                count,
                _share(each.busy_s, duration_s),
                _share(each.prefix_hits, each.prefix_queries),
                each.preemptions,
            )
            for count, each in zip(counts, tallies, strict=True)
        ],
    )


def short_step_warning(result: SimulationResult, model: SimulatedModel, steps: str = "Steps") -> str | None:
    """Return a warning if steps of a card are so short that their times cannot be right. steps: how it names them."""
    step_s = result.utilization * result.duration_s * len(result.replicas) / max(1, result.steps)
    if model.measured is not None or not 0 < step_s < _SHORT_STEP_S:
        return None
    return (
        f"{steps} take {step_s * 1e3:.3g} ms on average. Such short steps are bound by the launch of their kernels, "
        "which is not modeled: the times are far too short, and the utilization is too low."
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
