"""PoolingQueue: texts that wait for a batch, in the order of service."""

import heapq
import itertools
import math
from collections.abc import Iterable, Sequence

from engine.protocol import FinishReason, PoolingRequest, PoolingTask, ServiceClass
from engine.scheduling.fairness.service_rules import SERVICE_RULES

_Key = tuple[int, float, float, int]  # rank of the class, priority, turn, order of arrival


class PoolingQueue:
    """Waiting texts by service class; within a class, tenants are served by fair queuing, and each tenant's texts first
    come, first served.

    A tenant's next text starts, in virtual time, where its last one ended; a text's length is its tokens divided by the
    tenant's weight (start-time fair queuing: Goyal et al., SIGCOMM 1996). If priorities are honored, they come before
    fairness.

    Invariant: the heaps have an entry for each waiting text; entries of removed texts stay until they reach the top.
    """

    def __init__(self, *, honors_priority: bool) -> None:
        self._honors_priority = honors_priority
        self._waiting: dict[str, PoolingRequest] = {}
        self._order: list[tuple[_Key, str]] = []
        self._limits: list[tuple[float, str, FinishReason]] = []
        self._turns: dict[str, float] = {}  # for each tenant with waiting texts, the end of its last turn
        self._now = 0.0  # the turn of the text that was taken last
        self._num_of_tenant: dict[str, int] = {}
        self._num_of_class = dict.fromkeys(ServiceClass, 0)
        self.num_tokens = 0  # of waiting texts that are not of batches
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._waiting)

    def num_of(self, service_class: ServiceClass) -> int:
        return self._num_of_class[service_class]

    @property
    def next_limit_s(self) -> float | None:
        """Earliest time limit of a waiting text, on the time.monotonic() clock; None if no text has a limit."""
        while self._limits and self._limits[0][1] not in self._waiting:
            heapq.heappop(self._limits)
        return self._limits[0][0] if self._limits else None

    def add(self, request: PoolingRequest) -> None:
        begins = max(self._now, self._turns.get(request.tenant, 0.0))
        self._turns[request.tenant] = begins + len(request.prompt_ids) / request.tenant_weight
        self._push(request, begins)

    def put_back(self, requests: Sequence[PoolingRequest]) -> None:
        """Requeue texts that `take` returned, before all other texts of their class and priority."""
        for request in requests:
            self._turns.setdefault(request.tenant, self._now)
            self._push(request, -math.inf)

    def _push(self, request: PoolingRequest, turn: float) -> None:
        assert request.id not in self._waiting
        self._waiting[request.id] = request
        priority = float(request.priority) if self._honors_priority else 0.0
        key = (SERVICE_RULES[request.service_class].rank, priority, turn, next(self._numbers))
        heapq.heappush(self._order, (key, request.id))
        for limit_s, reason in (
            (request.deadline_s, FinishReason.TIMEOUT),
            (request.start_by_s, FinishReason.QUEUE_TIMEOUT),
        ):
            if limit_s is not None:
                heapq.heappush(self._limits, (limit_s, request.id, reason))
        self._num_of_tenant[request.tenant] = self._num_of_tenant.get(request.tenant, 0) + 1
        self._count(request, 1)

    def remove(self, request_id: str) -> None:
        if (request := self._waiting.pop(request_id, None)) is None:
            return
        self._count(request, -1)
        self._num_of_tenant[request.tenant] -= 1
        if not self._num_of_tenant[request.tenant]:
            del self._num_of_tenant[request.tenant], self._turns[request.tenant]

    def take_expired(self, now_s: float) -> list[tuple[PoolingRequest, FinishReason]]:
        expired = []
        while (limit_s := self.next_limit_s) is not None and limit_s <= now_s:
            _, name, reason = heapq.heappop(self._limits)
            expired.append((self._waiting[name], reason))
            self.remove(name)
        return expired

    def next_class(self) -> ServiceClass | None:
        self._drop_gone()
        return self._waiting[self._order[0][1]].service_class if self._order else None

    def take(self, max_tokens: int, max_texts: int, max_vectors: int | None = None) -> Sequence[PoolingRequest]:
        """Remove and return the next batch of texts: as many as fit, and at least one. max_vectors: limit on the
        vectors of token_embed tasks.

        Texts of a class that yields immediately get a batch of their own, so as not to lengthen the step of other
        texts.
        """
        taken: list[PoolingRequest] = []
        num_tokens = num_vectors = 0
        while len(taken) < max_texts:
            self._drop_gone()
            if not self._order:
                break
            (_, _, turn, _), name = self._order[0]
            request = self._waiting[name]
            num_tokens += len(request.prompt_ids)
            if request.params.task is PoolingTask.TOKEN_EMBED:
                num_vectors += len(request.prompt_ids)
            is_full = num_tokens > max_tokens or (max_vectors is not None and num_vectors > max_vectors)
            if taken and (is_full or _yields_at_once(request) != _yields_at_once(taken[0])):
                break
            heapq.heappop(self._order)
            self._now = max(self._now, turn)
            self.remove(name)
            taken.append(request)
        return taken

    def _count(self, request: PoolingRequest, sign: int) -> None:
        self._num_of_class[request.service_class] += sign
        self.num_tokens += sign * num_client_tokens([request])

    def _drop_gone(self) -> None:
        while self._order and self._order[0][1] not in self._waiting:
            heapq.heappop(self._order)

    def check(self) -> None:
        names = [name for _, name in self._order if name in self._waiting]
        assert sorted(names) == sorted(self._waiting)
        assert self._num_of_tenant.keys() == self._turns.keys() == {each.tenant for each in self._waiting.values()}
        assert self.num_tokens == num_client_tokens(self._waiting.values())
        assert sum(self._num_of_class.values()) == len(self._waiting) == sum(self._num_of_tenant.values())


def num_client_tokens(requests: Iterable[PoolingRequest]) -> int:
    """Return the number of tokens of the texts that are not of batches."""
    return sum(len(each.prompt_ids) for each in requests if each.service_class is not ServiceClass.BATCH)


def _yields_at_once(request: PoolingRequest) -> bool:
    return SERVICE_RULES[request.service_class].yields_immediately
