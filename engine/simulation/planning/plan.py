"""Plan: what a load does to servers, the largest load within an SLO, and what changes would bring."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from engine.command_io.lengths import LognormalLength, UniformLength, parse_lengths
from engine.errors import OptionError
from engine.simulation.hardware import SimulatedModel
from engine.simulation.planning.drafts import DraftCosts, plan_drafts
from engine.simulation.planning.search import LoadKind, LoadSearch, LoadTrial, Requests, Servers
from engine.simulation.planning.slo import SLO
from engine.simulation.results import MODELED, Percentiles, short_step_warning

FROM_FILES = "the model's files, and the hardware's memory"
_ONE_MORE = 1.1  # times the rate of a load, instead of one user more


@dataclass(frozen=True, slots=True)
class Variant:
    """The model with other options of `headrace serve`. failure: why it cannot be served so, if it cannot."""

    name: str
    model: SimulatedModel | None
    failure: str | None = None


class PlannedMemory(msgspec.Struct, frozen=True):
    """Bytes of one server."""

    weight_bytes: int
    kv_bytes: int
    kv_tokens: int
    kv_requests: int  # whole requests of the mean length that the KV cache holds together


class LoadFigures(msgspec.Struct, frozen=True):
    """Figures of a simulated load. Times are in seconds, and null for more requests a second than the servers compute:
    the other figures are then those of servers with a request at each place."""

    amount: float  # requests a second, or users
    ttft_s: Percentiles | None
    token_s: Percentiles | None
    request_s: Percentiles | None
    requests_per_s: float
    output_tokens_per_s: float
    utilization: float
    preemptions: int
    cost_per_million_output_tokens: float | None
    misses: list[str]


class Change(msgspec.Struct, frozen=True):
    """The load with one thing changed. failure: why there are no figures."""

    name: str
    memory: PlannedMemory | None = None
    given: LoadFigures | None = None
    largest: LoadFigures | None = None
    ratio: float | None = None  # of the largest load to that without the change
    failure: str | None = None


class Plan(msgspec.Struct, frozen=True):
    """The answer of `headrace plan` and of GET /v1/plan."""

    model: str
    hardware: str
    hardware_origin: str
    hardware_source: str  # of its figures, with their date
    replicas: int
    kind: LoadKind
    input: str
    output: str
    slo_s: dict[str, float]
    memory: PlannedMemory
    alone: LoadFigures
    given: LoadFigures
    largest: LoadFigures | None
    limit: str  # why a larger load misses the SLO
    one_more_fits: bool  # whether the given load and one more user, or a tenth more requests, keep the SLO
    replicas_needed: int | None  # for the given load, at the largest load of each; None: no number is enough
    changes: list[Change]
    drafts: DraftCosts
    origins: dict[str, str]
    warning: str | None = None  # why the times of a card are too short


def make_plan(
    servers: Servers,
    requests: Requests,
    kind: LoadKind,
    amount: float,
    slo: SLO,
    variants: Sequence[Variant] = (),
    *,
    has_changes: bool = True,
) -> Plan:
    """Simulate a load and search for the largest one. Raises OptionError if a request is too long for the model.

    variants: other options to compare. has_changes: also compare one more server and prompts of twice the length.
    """
    search = LoadSearch(servers, requests, kind, slo)
    given, largest = search.trial(amount), search.largest(amount)
    base = None if largest.trial is None else largest.trial.amount
    comparison = _Comparison(kind, amount, slo, base)
    changes = []
    if has_changes:
        more = replace(servers, replicas=servers.replicas + 1)
        longer = replace(requests, input=_twice(requests.input))
        changes.append(comparison.change(f"{more.replicas} servers", more, requests))
        changes.append(comparison.change(f"prompts of {longer.input} tokens", servers, longer))
    for each in variants:
        if each.model is None:
            changes.append(Change(each.name, failure=each.failure))
        else:
            changes.append(comparison.change(each.name, replace(servers, model=each.model), requests))
    one_more = amount + 1 if kind is LoadKind.CONCURRENCY else amount * _ONE_MORE
    model = servers.model
    return Plan(
        model=model.model,
        hardware=model.hardware,
        hardware_origin=model.origin,
        hardware_source=model.source,
        replicas=servers.replicas,
        kind=kind,
        input=requests.input,
        output=requests.output,
        slo_s=slo.limits_s,
        memory=_memory(model, requests),
        alone=_figures(search.alone),
        given=_figures(given),
        largest=None if largest.trial is None else _figures(largest.trial),
        limit=largest.reason,
        one_more_fits=base is not None and one_more <= base,
        replicas_needed=None if base is None else math.ceil(amount * servers.replicas / base),
        changes=changes,
        drafts=plan_drafts(model, _mean_context(requests), _num_running(given, kind, servers.replicas)),
        origins={"memory": FROM_FILES, "hardware": f"{model.origin}: {model.source}", "*": MODELED},
        warning=short_step_warning(search.alone.result, model, "Steps of a request alone"),
    )


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The load and limits of a plan, to compare changes with. base: the largest load without one."""

    kind: LoadKind
    amount: float
    slo: SLO
    base: float | None

    def change(self, name: str, servers: Servers, requests: Requests) -> Change:
        try:
            search = LoadSearch(servers, requests, self.kind, self.slo)
            given, largest = search.trial(self.amount), search.largest(self.base)
        except OptionError as error:  # requests that are too long for this change
            return Change(name, _memory(servers.model, requests), failure=str(error))
        found = None if largest.trial is None else largest.trial.amount
        return Change(
            name,
            _memory(servers.model, requests),
            _figures(given),
            None if largest.trial is None else _figures(largest.trial),
            None if found is None or self.base is None else found / self.base,
            None if found is not None else largest.reason,
        )


def _memory(model: SimulatedModel, requests: Requests) -> PlannedMemory:
    return PlannedMemory(model.weight_bytes, model.kv_bytes, model.kv_tokens, model.kv_tokens // _mean_tokens(requests))


def _mean_tokens(requests: Requests) -> int:
    return round(parse_lengths(requests.input, "--input").mean + parse_lengths(requests.output, "--output").mean)


def _mean_context(requests: Requests) -> int:
    """Return the tokens that a sequence has on average while it generates."""
    return round(parse_lengths(requests.input, "--input").mean + parse_lengths(requests.output, "--output").mean / 2)


def _twice(lengths: str) -> str:
    """Return the distribution of lengths that are twice as long."""
    match parse_lengths(lengths, "--input"):
        case UniformLength(low, high):
            return str(2 * low) if low == high else f"{2 * low}:{2 * high}"
        case LognormalLength(median, sigma, maximum):
            return f"lognormal:{2 * median}:{sigma:g}:{2 * maximum}"
    raise AssertionError(lengths)


def _num_running(trial: LoadTrial, kind: LoadKind, replicas: int) -> int:
    """Return the requests that a server has open on average (Little's law)."""
    mean_s = trial.result.request_s.mean if trial.result.request_s is not None else 0.0
    requests_per_s = trial.result.answered / trial.result.duration_s if trial.is_excessive else trial.amount
    num_open = trial.amount if kind is LoadKind.CONCURRENCY else requests_per_s * mean_s
    return max(1, round(num_open / replicas))


def _figures(trial: LoadTrial) -> LoadFigures:
    result = trial.result
    return LoadFigures(
        amount=trial.amount,
        ttft_s=None if trial.is_excessive else result.ttft_s,
        token_s=None if trial.is_excessive else result.token_s,
        request_s=None if trial.is_excessive else result.request_s,
        requests_per_s=result.answered / result.duration_s,
        output_tokens_per_s=result.output_tokens_per_s,
        utilization=result.utilization,
        preemptions=result.preemptions,
        cost_per_million_output_tokens=result.cost_per_million_output_tokens,
        misses=trial.misses,
    )
