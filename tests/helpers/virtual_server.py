"""A server under load in virtual time: a replica of engine/simulation, the client's bookkeeping and predictor, and
steps that take what a line says. Minutes of overload pass in a second, and every run is the same."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from engine.client.open_streams import OpenStreams
from engine.client.queue.first_token import FirstToken, FirstTokenPredictor
from engine.protocol import ServiceClass
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.steps.budget import StepBudget
from engine.simulation.replica import Replica
from engine.simulation.trace import poisson_arrivals
from tests.helpers.engines import make_config, make_request
from tests.helpers.fake_client import engine_info
from tests.helpers.ledger import EOS_ID


@dataclass(frozen=True, slots=True)
class Work:
    """One request that comes: what it is, and how long its answer will be, which the server does not know."""

    arrival_s: float
    num_prompt: int
    num_output: int
    max_tokens: int
    service_class: ServiceClass = ServiceClass.INTERACTIVE


@dataclass(slots=True)
class Fate:
    """The outcome of one request."""

    work: Work
    predicted: FirstToken
    is_accepted: bool
    first_token_s: float | None = None  # from its arrival


class VirtualServer:
    """Steps take overhead_s + seconds_per_token for each token, and up to `noise` of that more or less."""

    def __init__(
        self,
        *,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 512,
        overhead_s: float = 0.02,
        seconds_per_token: float = 0.001,
        noise: float = 0.1,
        seed: int = 1,
    ) -> None:
        self.now_s = 0.0
        self._overhead_s, self._seconds_per_token, self._noise = overhead_s, seconds_per_token, noise
        self._random = random.Random(seed)
        config = make_config(
            num_blocks=8192,
            block_size=16,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
        )
        self._replica = Replica(
            config,
            StepBudget(max_num_batched_tokens),
            self._step_s,
            next_token=self._next_token,
            on_started=lambda ids: self._predictor.on_started(self._streams.start(ids)),
        )
        self._streams = OpenStreams(on_discarded=lambda _: None)
        self._predictor = FirstTokenPredictor(
            self._streams.backlog, self._streams.running, on_known=self._note, clock=lambda: self.now_s
        )
        self.known: list[tuple[float, float]] = []  # predicted and real times of those that were accepted
        info = engine_info(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            prefill_seconds_per_token=seconds_per_token,
            decode_step_s=overhead_s + seconds_per_token,
        )
        self._predictor.on_ready(info)
        self._lengths: dict[str, int] = {}
        self._fates: dict[str, Fate] = {}

    def _note(self, prediction: FirstToken, real_s: float) -> None:
        self.known.append((prediction.expected_s, real_s))

    def run(self, works: list[Work], is_accepted: Callable[[FirstToken, Work], bool]) -> list[Fate]:
        """The fates of all, which come in order. is_accepted: decides by the predicted time and the work."""
        coming = sorted(works, key=lambda work: work.arrival_s)[::-1]
        fates: list[Fate] = []
        while coming or self._replica.scheduler.has_work or len(self._streams):
            if not len(self._streams):
                self.now_s = max(self.now_s, coming[-1].arrival_s)
            self._take(coming, fates, is_accepted)
            for request in self._streams.take_unsent():
                self._replica.add(request)
            self._step(coming, fates, is_accepted)
        return fates

    def _take(self, coming: list[Work], fates: list[Fate], is_accepted: Callable[[FirstToken, Work], bool]) -> None:
        """Take the requests that have come by now."""
        while coming and coming[-1].arrival_s <= self.now_s:
            work = coming.pop()
            predicted = self._predictor.predict(work.num_prompt, work.service_class)
            fate = Fate(work, predicted, is_accepted(predicted, work))
            fates.append(fate)
            if fate.is_accepted:
                self._submit(str(len(fates)), fate)

    def _submit(self, name: str, fate: Fate) -> None:
        work = fate.work
        prompt = [self._random.randrange(1, 9000) for _ in range(work.num_prompt)]
        request = make_request(
            name,
            prompt,
            max_tokens=work.max_tokens,
            arrival_s=work.arrival_s,
            service_class=work.service_class,
        )
        self._lengths[name], self._fates[name] = work.num_output, fate
        self._predictor.expect(name, len(prompt), work.service_class)
        self._streams.open(request, num_new_tokens=len(prompt), on_abort=lambda _: None)

    def _step(self, coming: list[Work], fates: list[Fate], is_accepted: Callable[[FirstToken, Work], bool]) -> None:
        """One step, while which others come."""
        end_s = self._replica.begin_step(self.now_s)
        if end_s is None:
            return
        while coming and coming[-1].arrival_s <= end_s:
            self.now_s = coming[-1].arrival_s
            self._take(coming, fates, is_accepted)
        self.now_s = end_s
        outputs = self._replica.end_step()
        self._predictor.on_step(self._replica.stats, outputs)
        for output in outputs:
            fate = self._fates[output.id]
            if output.new_ids and fate.first_token_s is None:
                fate.first_token_s = self.now_s - fate.work.arrival_s
            if (num_output := self._streams.deliver(output)) is not None:
                self._predictor.on_ended(num_output)

    def _step_s(self, plan: StepPlan) -> float:
        step_s = self._overhead_s + self._seconds_per_token * plan.num_tokens
        return step_s * (1 + self._noise * (2 * self._random.random() - 1))

    def _next_token(self, item: PlanItem) -> int:
        is_last = item.sequence.num_output + 1 == self._lengths[item.sequence.id]
        return EOS_ID if is_last else EOS_ID + 1


def poisson(rate: float, seconds: float, make: Callable[[random.Random, float], Work], seed: int = 0) -> list[Work]:
    """Works that come at random, `rate` a second."""
    source = random.Random(seed)
    arrivals = itertools.takewhile(lambda now_s: now_s < seconds, poisson_arrivals(rate, source))
    return [make(source, now_s) for now_s in arrivals]
