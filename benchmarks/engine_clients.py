"""Simulated clients of an engine in this process: requests that come at given times, and the times of their tokens."""

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.engine import Engine
from engine.protocol import AbortReason, EngineRequest, SamplingParams


@dataclass(slots=True)
class Sent:
    """One request. Times are by time.monotonic()."""

    request: EngineRequest
    token_s: list[float] = field(default_factory=list)  # when each token came
    is_ended: bool = False

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.request.arrival_s

    @property
    def gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.token_s, self.token_s[1:], strict=False)]


class EngineClients:
    """Steps an engine and hands it each request when it is due; one that is due within a step waits for its end, as
    one would that comes over a socket."""

    def __init__(self, engine: Engine, vocab_size: int, seed: int = 0) -> None:
        self.sent: dict[str, Sent] = {}
        self._engine = engine
        self._vocab_size = vocab_size
        self._rng = random.Random(seed)
        self._due: list[tuple[float, str]] = []

    def send(
        self, prompt_len: int, output_len: int, *, tenant: str = "", weight: float = 1.0, after_s: float = 0.0
    ) -> Sent:
        """A greedy request with a random prompt, which nothing is cached of."""
        request = EngineRequest(
            id=f"bench-{len(self.sent)}",
            prompt_ids=[self._rng.randrange(self._vocab_size) for _ in range(prompt_len)],
            sampling=SamplingParams(max_tokens=output_len, temperature=0.0, ignore_eos=True),
            arrival_s=time.monotonic() + after_s,
            tenant=tenant,
            tenant_weight=weight,
        )
        sent = self.sent[request.id] = Sent(request)
        heapq.heappush(self._due, (request.arrival_s, request.id))
        return sent

    def run(self, is_over: Callable[[], bool], on_end: Callable[[Sent], None] = lambda _: None) -> None:
        """Step until `is_over`, or nothing is left. on_end: called for each request that ends."""
        while not is_over():
            while self._due and self._due[0][0] <= time.monotonic():
                self._engine.add(self.sent[heapq.heappop(self._due)[1]].request)
            if not self._engine.has_work:
                if not self._due:
                    return
                time.sleep(max(0.0, self._due[0][0] - time.monotonic()))
                continue
            outputs = self._engine.step().outputs
            now_s = time.monotonic()
            for output in outputs:
                sent = self.sent[output.id]
                sent.token_s += [now_s] * len(output.new_ids)
                if output.finish_reason is not None:
                    sent.is_ended = True
                    on_end(sent)

    def leave(self) -> None:
        """Abort all that is left, and forget it."""
        self._due.clear()
        for sent in self.sent.values():
            if not sent.is_ended:
                self._engine.abort(sent.request.id, AbortReason.CLIENT_GONE)
        while self._engine.has_work:
            self._engine.step()
        self.sent.clear()
