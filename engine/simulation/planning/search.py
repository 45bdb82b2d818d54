"""Search for the largest load within an SLO, by bisection over simulations."""

import enum
import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from engine.config import EngineConfig
from engine.errors import OptionError
from engine.simulation.fleet import Fleet, RequestFate, replica_of
from engine.simulation.hardware import SimulatedModel
from engine.simulation.planning.slo import SLO, show_amount
from engine.simulation.policies import make_policy
from engine.simulation.results import Percentiles, SimulationResult, simulation_result
from engine.simulation.trace import TraceRequest, draw_trace

_RATE_STEP = 1.03  # the search for a rate ends within this factor
_FIRST_STEP = 1.25  # from a guess to the next load; then twice as far, and so on
_RARE = 0.01  # requests in the time of one that is alone
_LONG = 10  # times of a request alone that requests keep coming at a rate, at least, so that they reach their number
_MOST_USERS = 1024
_MOST_PLACES = 16_384  # of all servers: a capacity is found with a user and some requests for each
_EACH = 3  # counted requests of each user, at least
_BUSY = 0.9  # share of the time that servers compute, from which a load may be more than they compute
_MANY = 2  # times the requests of a simulation, above which a rate is compared with the capacity before it is played
_ALONE = 20  # requests, each sent when the last one has ended


class LoadKind(enum.StrEnum):
    """Measures of a load: requests a second at random times, or users who send one request after another."""

    RATE = "rate"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of a load. input, output: distributions of lengths, as parse_lengths reads them."""

    input: str
    output: str
    num_requests: int
    seed: int

    def draw(self, rate: float, num_requests: int) -> list[TraceRequest]:
        return draw_trace(
            rate=rate,
            num_requests=num_requests,
            input_len=self.input,
            output_len=self.output,
            prefix_len=0,
            num_prefixes=1,
            seed=self.seed,
            remedy="lower the lengths of input or output",
        )


@dataclass(frozen=True, slots=True)
class Servers:
    """Servers of one model, which take requests in turn."""

    model: SimulatedModel
    engine: EngineConfig
    replicas: int
    price: float | None = None  # of one server for an hour

    def fleet(self) -> Fleet:
        replicas = [replica_of(self.model, self.engine) for _ in range(self.replicas)]
        return Fleet(replicas, make_policy("round_robin", 0), self.model.kv_tokens)


@dataclass(frozen=True, slots=True)
class LoadTrial:
    """A load that was simulated, and the limits that it missed."""

    amount: float  # of the load's kind
    result: SimulationResult  # if the load is excessive, of as many users as the servers have places
    misses: list[str]
    is_excessive: bool = False  # whether it has more requests a second than the servers compute


@dataclass(frozen=True, slots=True)
class Capacity:
    """The most that servers compute: requests a second while a user waits for each of their places, and the figures."""

    rate: float
    result: SimulationResult


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest load that keeps an SLO, and the reason why a larger one does not."""

    trial: LoadTrial | None  # None: no load keeps it
    reason: str


class LoadSearch:
    """Simulates loads of one kind on servers, and finds the largest one that keeps an SLO.

    Raises OptionError if the servers refuse a request, which no load changes, or have too many places for a rate to be
    planned.
    """

    def __init__(self, servers: Servers, requests: Requests, kind: LoadKind, slo: SLO) -> None:
        self._servers = servers
        self._requests = requests
        self._kind = kind
        self._slo = slo
        self._trials: dict[float, LoadTrial] = {}  # by amount
        self.alone = self._judged(1, self._users_result(1, 0.0, _ALONE))
        assert self.alone.result.request_s is not None
        self.alone_s = self.alone.result.request_s.mean  # seconds of a request that has a server for itself

    def trial(self, amount: float) -> LoadTrial:
        """Simulate a load: `amount` requests a second, or users."""
        if amount not in self._trials:
            self._trials[amount] = self._simulated(amount)
        return self._trials[amount]

    def _simulated(self, amount: float) -> LoadTrial:
        if self._kind is LoadKind.CONCURRENCY:
            gap_s = self.alone_s / amount
            return self._judged(amount, self._users_result(int(amount), gap_s, self._requests.num_requests))
        num_requests = max(self._requests.num_requests, math.ceil(amount * _LONG * self.alone_s))
        is_known = "_capacity" in vars(self)  # else it is measured, which takes longer than most loads
        is_long = num_requests > _MANY * self._requests.num_requests
        if (is_known or is_long) and amount > self._capacity.rate:
            return self._excessive(amount)
        fleet = self._servers.fleet()
        trace = self._requests.draw(amount, num_requests)
        result = simulation_result(fleet, fleet.run(trace), self._servers.price)
        if result.utilization > _BUSY and amount > self._capacity.rate:
            return self._excessive(amount)
        return self._judged(amount, result)

    def _excessive(self, amount: float) -> LoadTrial:
        """Return the trial of a rate whose times no simulation can give: the queue grows for as long as one runs."""
        trial, most = self._judged(amount, self._capacity.result), show_amount(self._capacity.rate)
        reason = f"the servers compute {most} requests a second, and the queue of more grows without end"
        return replace(trial, misses=[reason], is_excessive=True)

    def largest(self, near: float | None = None) -> Largest:
        """Find the largest load: a rate within 3 %, a number of users up to 1,024 exactly. near: a guess, from which
        the search is shorter if it is good."""
        if self.alone.misses:
            return Largest(None, f"even a request alone misses it: {_listed(self.alone.misses)}")
        if self._kind is LoadKind.CONCURRENCY:
            return self._search(1, _MOST_USERS, near or 1, f"more than {_MOST_USERS:,} users are not simulated")
        reason = "the servers compute no more requests a second, however long these wait"
        return self._search(_RARE / self.alone_s, math.inf, near or self._servers.replicas / self.alone_s, reason)

    def _search(self, least: float, most: float, near: float, reason: str) -> Largest:
        """Find the largest load from `least` to `most`, or to what the servers compute, where `reason` ends the
        search."""
        tried = self.trial(min(max(near, least), most))
        factor, good, bad = _FIRST_STEP, None, None
        while good is None or bad is None:
            if tried.is_excessive:
                most = self._capacity.rate
                least, tried = min(least, most), self.trial(most)
            good, bad = (good, tried) if tried.misses else (tried, bad)
            if good is None and tried.amount == least:
                return Largest(None, f"even the least load misses it: {_listed(tried.misses)}")
            if bad is None and tried.amount == most:
                return Largest(tried, reason)
            if good is None or bad is None:
                amount = tried.amount / factor if tried.misses else tried.amount * factor
                tried = self.trial(min(max(self._rounded(amount, tried), least), most))
                factor *= factor
        while self._is_between(good, bad):
            tried = self.trial(self._rounded(math.sqrt(good.amount * bad.amount), good))
            good, bad = (good, tried) if tried.misses else (tried, bad)
        return Largest(good, _reason(bad))

    def _is_between(self, good: LoadTrial, bad: LoadTrial) -> bool:
        """Whether there are loads between two that are worth a trial."""
        if self._kind is LoadKind.CONCURRENCY:
            return bad.amount - good.amount > 1
        return bad.amount > good.amount * _RATE_STEP

    def _rounded(self, amount: float, tried: LoadTrial) -> float:
        """Return a load that can be simulated, near `amount`; never `tried` again."""
        if self._kind is LoadKind.RATE:
            return amount
        return max(math.ceil(amount), tried.amount + 1) if amount > tried.amount else math.floor(amount)

    @cached_property
    def _capacity(self) -> Capacity:
        """The capacity in the middle half of the answers, since there are fewer users before and after."""
        slots, replicas = self._servers.engine.max_num_seqs, self._servers.replicas
        if (num_users := slots * replicas) > _MOST_PLACES:
            raise OptionError(
                f"--max-num-seqs is {slots:,} on each of {replicas:,} servers; a rate is planned for at most "
                f"{_MOST_PLACES:,} requests at once in all; lower --max-num-seqs or --replicas"
            )
        fleet, fates = self._play_users(num_users, self.alone_s / num_users, self._requests.num_requests)
        ends_s = sorted(each.ended_s for each in fates if each.ended_s is not None)
        low, high = len(ends_s) // 4, len(ends_s) * 3 // 4
        rate = (high - low) / (ends_s[high] - ends_s[low])
        return Capacity(rate, simulation_result(fleet, fates, self._servers.price))

    def _users_result(self, num_users: int, gap_s: float, least: int) -> SimulationResult:
        """Return the figures of `_play_users`. The first request of each user is not in the percentiles, since it comes
        while others are missing."""
        fleet, fates = self._play_users(num_users, gap_s, least)
        result, counted = simulation_result(fleet, fates, self._servers.price), fates[num_users:]
        return replace(
            result,
            ttft_s=Percentiles.of(each.ttft_s for each in counted if each.ttft_s is not None),
            token_s=Percentiles.of(each.token_s for each in counted if each.token_s is not None),
            request_s=Percentiles.of(
                each.ended_s - each.request.arrival_s for each in counted if each.ended_s is not None
            ),
        )

    def _play_users(self, num_users: int, gap_s: float, least: int) -> tuple[Fleet, list[RequestFate]]:
        """Play users who come `gap_s` after one another, until they have sent `least` further requests or more."""
        drawn = iter(self._requests.draw(1.0, num_users + max(least, _EACH * num_users)))
        first = [replace(each, arrival_s=gap_s * index) for index, each in enumerate(islice(drawn, num_users))]

        def next_request(now_s: float) -> TraceRequest | None:
            following = next(drawn, None)
            return None if following is None else replace(following, arrival_s=now_s)

        fleet = self._servers.fleet()
        return fleet, fleet.run(first, next_request)

    def _judged(self, amount: float, result: SimulationResult) -> LoadTrial:
        if result.first_refusal is not None:
            raise OptionError(f"a request of this load is refused: {result.first_refusal}")
        return LoadTrial(amount, result, [str(miss) for miss in self._slo.misses(result)])


def _reason(trial: LoadTrial) -> str:
    preemptions = trial.result.preemptions
    full = f"; the KV cache is too small for so many ({preemptions:,} preemptions)" if preemptions else ""
    return f"at {show_amount(trial.amount)}, {_listed(trial.misses)}{full}"


def _listed(misses: list[str]) -> str:
    return ", and ".join(misses)
