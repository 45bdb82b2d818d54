"""Fleet: several replicas behind one front, through which the requests of a trace come."""

import heapq
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.config import EngineConfig
from engine.errors import InvalidRequest
from engine.protocol import EngineRequest, RequestOutput, SamplingParams
from engine.scheduling.config import SchedulerConfig
from engine.simulation.hardware import SimulatedModel
from engine.simulation.policies import Policy
from engine.simulation.replica import Replica
from engine.simulation.trace import TraceRequest


@dataclass(slots=True)
class RequestFate:
    """The course of one request. Times are of the trace."""

    request: TraceRequest
    replica: int
    refusal: str | None = None
    first_token_s: float | None = None
    ended_s: float | None = None
    num_cached: int = 0

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_token_s is None else self.first_token_s - self.request.arrival_s

    @property
    def token_s(self) -> float | None:
        """Mean seconds between two tokens; None for an answer of one token."""
        if self.first_token_s is None or self.ended_s is None or self.request.num_output < 2:
            return None
        return (self.ended_s - self.first_token_s) / (self.request.num_output - 1)


class FleetReplica:
    """A replica as the front sees it: by the requests that it has sent there, and the answers that came back.

    The prefixes of the last requests count as cached, as many blocks as the KV cache holds.
    """

    def __init__(self, replica: Replica, kv_tokens: int) -> None:
        self.engine = replica
        self.num_open = 0
        self.queued_tokens = 0
        self._kv_tokens = kv_tokens
        self._blocks: dict[int, int] = {}  # tokens of blocks by the hash of their prefix; the least recent first
        self._num_block_tokens = 0
        self._uncached: dict[int, int] = {}  # of requests without a token, by number

    def num_cached(self, request: TraceRequest) -> int:
        """Return the tokens of a prompt that the replica probably has."""
        num_blocks = 0
        for prefix in _prefix_hashes(request):
            if prefix not in self._blocks:
                break
            num_blocks += 1
        return min(num_blocks * request.block_tokens, request.num_prompt - 1)

    def note_sent(self, index: int, request: TraceRequest) -> None:
        self.num_open += 1
        self._uncached[index] = request.num_prompt - self.num_cached(request)
        self.queued_tokens += self._uncached[index]
        for prefix in _prefix_hashes(request):
            self._num_block_tokens += request.block_tokens - self._blocks.pop(prefix, 0)
            self._blocks[prefix] = request.block_tokens
        while self._num_block_tokens > self._kv_tokens:
            self._num_block_tokens -= self._blocks.pop(next(iter(self._blocks)))

    def note_first_token(self, index: int) -> None:
        self.queued_tokens -= self._uncached.pop(index)


def _prefix_hashes(request: TraceRequest) -> Iterator[int]:
    """Yield a number for each full block of a prompt and all blocks before it."""
    prefix = 0
    for block_id in request.block_ids[: request.num_prompt // request.block_tokens]:
        prefix = hash((prefix, block_id))
        yield prefix


class Fleet:
    """Replicas of one model, on one virtual clock. At one moment, steps end before requests come, and steps begin
    last."""

    def __init__(self, replicas: Sequence[Replica], policy: Policy, kv_tokens: int) -> None:
        """kv_tokens: tokens that the KV cache of a replica holds."""
        self.replicas = tuple(FleetReplica(each, kv_tokens) for each in replicas)  # no policy can change it
        self._policy = policy
        # When a replica's step ends, and its number. A request that comes within a run makes its entry void.
        self._ends: list[tuple[float, int]] = []
        self._fates: list[RequestFate] = []
        self._arrivals: list[TraceRequest] = []
        self._next_request: Callable[[float], TraceRequest | None] = lambda _: None

    def run(
        self, trace: Sequence[TraceRequest], next_request: Callable[[float], TraceRequest | None] = lambda _: None
    ) -> list[RequestFate]:
        """Play a trace, which is in order of arrival, until all requests have ended; return their courses.

        next_request: called with the time when a request ends, returns the one that its user sends then, or None.
        """
        position, self._arrivals, self._next_request = 0, list(trace), next_request
        trace = self._arrivals  # grows
        while (ends_s := self._next_end_s()) is not None or position < len(trace):
            if ends_s is not None and (position == len(trace) or ends_s <= trace[position].arrival_s):
                self._end_step()
                continue
            now_s, chosen = trace[position].arrival_s, set()
            while position < len(trace) and trace[position].arrival_s == now_s:
                chosen.add(self._submit(trace[position]))
                position += 1
            for number in sorted(chosen):
                if (cut_s := self.replicas[number].engine.ends_s) is None:
                    self._begin_step(number, now_s)
                else:
                    heapq.heappush(self._ends, (cut_s, number))
        return self._fates

    def _next_end_s(self) -> float | None:
        while self._ends and self.replicas[self._ends[0][1]].engine.ends_s != self._ends[0][0]:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def _submit(self, request: TraceRequest) -> int:
        number = self._policy(request, self.replicas)
        fate = RequestFate(request, number)
        index = len(self._fates)
        self._fates.append(fate)
        sampling = SamplingParams(max_tokens=request.num_output, ignore_eos=True, seed=0)
        prompt = request.prompt(-1 - index)
        try:
            self.replicas[number].engine.add(
                EngineRequest(id=str(index), prompt_ids=prompt, sampling=sampling, arrival_s=request.arrival_s)
            )
        except InvalidRequest as error:
            fate.refusal = str(error)
        else:
            self.replicas[number].note_sent(index, request)
        return number

    def _begin_step(self, number: int, now_s: float) -> None:
        if (ends_s := self.replicas[number].engine.begin_step(now_s)) is not None:
            heapq.heappush(self._ends, (ends_s, number))

    def _end_step(self) -> None:
        now_s, number = heapq.heappop(self._ends)
        for output in self.replicas[number].engine.end_step():
            self._note(output, now_s)
        self._begin_step(number, now_s)

    def _note(self, output: RequestOutput, now_s: float) -> None:
        fate = self._fates[int(output.id)]
        if output.new_ids and fate.first_token_s is None:
            fate.first_token_s = now_s
            fate.num_cached = output.num_cached_tokens
            self.replicas[fate.replica].note_first_token(int(output.id))
        if output.finish_reason is not None:
            fate.ended_s = now_s
            self.replicas[fate.replica].num_open -= 1
            if (following := self._next_request(now_s)) is not None:
                insort(self._arrivals, following, key=lambda each: each.arrival_s)


def make_replica(
    model: SimulatedModel,
    *,
    max_num_seqs: int,
    max_num_batched_tokens: int | None,
    long_prefill_token_threshold: int,
    enable_prefix_caching: bool,
    batch_step_ms: float,
    plays_runs: bool = True,
) -> Replica:
    """Make a replica that starts as an engine with these options would. plays_runs: play runs of decode steps at once,
    which changes no result."""
    budget, times, work = model.budget(max_num_batched_tokens, batch_step_ms / 1000), model.times(), model.work
    config = SchedulerConfig(
        num_blocks=model.num_blocks,
        num_states=model.num_states,
        kv_groups=model.kv_groups,
        max_model_len=model.max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget.max_tokens,
        long_prefill_token_threshold=long_prefill_token_threshold,
        enable_prefix_caching=enable_prefix_caching,
    )
    return Replica(
        config,
        budget,
        lambda plan: times.step_s(work.demand(plan)),
        decode_s=(lambda ends: map(times.step_s, work.decode_demands(ends))) if plays_runs else None,
    )


def replica_of(model: SimulatedModel, engine: EngineConfig) -> Replica:
    """Make a replica with the scheduler's options of an engine."""
    return make_replica(
        model,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        enable_prefix_caching=engine.enable_prefix_caching,
        batch_step_ms=engine.batch_step_ms,
    )
