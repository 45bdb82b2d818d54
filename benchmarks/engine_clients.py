"""Simulated clients of an engine in this process: requests at given times, and the times of their tokens."""

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.engine import Engine
from engine.protocol import AbortReason, EngineRequest, SamplingParams, ServiceClass, StepStats


@dataclass(slots=True)
class Sent:
    """A request. Times are by the clients' clock."""

    request: EngineRequest
    on_progress: Callable[[int], None] | None = None
    token_s: list[float] = field(default_factory=list)  # when each token came
    is_ended: bool = False

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.request.arrival_s


class EngineClients:
    """Clients that step an engine and add each request when it is due.

    A request that is due within a step waits for its end, like a request over a socket.
    """

    def __init__(
        self, engine: Engine, vocab_size: int, seed: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """clock: a clock that stands still while nothing is computed is put forward to the next request."""
        self._clock = clock
        self._skipped_s = 0.0
        self.sent: dict[str, Sent] = {}
        self._engine = engine
        self._vocab_size = vocab_size
        self._rng = random.Random(seed)
        self._num_sent = 0
        self._due: list[tuple[float, str]] = []

    @property
    def now_s(self) -> float:
        return self._clock() + self._skipped_s

    def random_ids(self, num_tokens: int) -> list[int]:
        """Return a prompt of which nothing is cached."""
        return [self._rng.randrange(self._vocab_size) for _ in range(num_tokens)]

    def send(
        self,
        prompt_len: int,
        output_len: int,
        *,
        tenant: str = "",
        weight: float = 1.0,
        after_s: float = 0.0,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
    ) -> Sent:
        """Add a request with a new random prompt."""
        return self._send(
            self.random_ids(prompt_len),
            output_len,
            tenant=tenant,
            weight=weight,
            after_s=after_s,
            service_class=service_class,
        )

    def send_ids(
        self, prompt_ids: list[int], output_len: int, *, on_progress: Callable[[int], None] | None = None
    ) -> Sent:
        """Add a request with a given prompt. on_progress: called with the number of its computed tokens."""
        return self._send(prompt_ids, output_len, on_progress=on_progress)

    def _send(
        self,
        prompt_ids: list[int],
        output_len: int,
        *,
        tenant: str = "",
        weight: float = 1.0,
        after_s: float = 0.0,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        on_progress: Callable[[int], None] | None = None,
    ) -> Sent:
        request = EngineRequest(
            id=f"bench-{self._num_sent}",
            prompt_ids=prompt_ids,
            sampling=SamplingParams(max_tokens=output_len, temperature=0.0, ignore_eos=True),
            arrival_s=self.now_s + after_s,
            tenant=tenant,
            tenant_weight=weight,
            service_class=service_class,
            reports_progress=on_progress is not None,
        )
        self._num_sent += 1
        sent = self.sent[request.id] = Sent(request, on_progress)
        heapq.heappush(self._due, (request.arrival_s, request.id))
        return sent

    def run(
        self,
        is_over: Callable[[], bool],
        on_end: Callable[[Sent], None] = lambda _: None,
        on_step: Callable[[StepStats, float], None] = lambda *_: None,
    ) -> None:
        """Step until `is_over`, or no request is left.

        on_end: called for each request that ends; on_step: called with each step's statistics and its seconds by the
        clients' clock.
        """
        while not is_over():
            while self._due and self._due[0][0] <= self.now_s:
                self._engine.add(self.sent[heapq.heappop(self._due)[1]].request)
            if not self._engine.has_work:
                if not self._due:
                    return
                self._skipped_s += max(0.0, self._due[0][0] - self.now_s)
                continue
            began_s = self.now_s
            step = self._engine.step()
            now_s = self.now_s
            on_step(step.stats, now_s - began_s)
            for output in step.outputs:
                sent = self.sent[output.id]
                sent.token_s += [now_s] * len(output.new_ids)
                if sent.on_progress is not None and output.num_prompt_computed is not None:
                    sent.on_progress(output.num_prompt_computed)
                if output.finish_reason is not None:
                    sent.is_ended = True
                    on_end(sent)

    def leave(self) -> None:
        """Abort and forget all remaining requests."""
        self._due.clear()
        for sent in self.sent.values():
            if not sent.is_ended:
                self._engine.abort(sent.request.id, AbortReason.CLIENT_GONE)
        while self._engine.has_work:
            self._engine.step()
        self.sent.clear()
