"""plan_memory: how several models share one memory: weights first, then KV caches; no byte is promised twice."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import StartupError
from engine.jobs.weighing import Weighed
from server.model_options.config import ModelEntry

PROCESS_BYTES = 512 << 20  # of an engine process beside weights and KV cache: libraries, buffers of a step
_FREE_SHARE = 0.8  # of what is free at the start: the rest is this process's, the system's and its cache's
_KV_SHARE = 0.4  # of what a model alone leaves, for its KV cache; as engines choose it that are alone
_CPU_KV_LIMIT_BYTES = 4 << 30
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Claim:
    """One model's part in the plan."""

    name: str
    weighed: Weighed
    kv_bytes: int | None = None  # as asked for
    kv_share: float = 1.0
    is_pinned: bool = False

    @property
    def fixed_bytes(self) -> int:
        return self.weighed.weight_bytes + self.weighed.adapter_bytes + PROCESS_BYTES

    @property
    def least_kv_bytes(self) -> int:
        return self.weighed.least_kv_bytes if self.kv_bytes is None else self.kv_bytes

    @property
    def wanted_kv_bytes(self) -> int:
        if self.kv_bytes is not None:
            return self.kv_bytes
        most = self.weighed.most_kv_bytes
        return min(most, _CPU_KV_LIMIT_BYTES) if self.weighed.is_on_cpu else most


def claim_of(entry: ModelEntry, weighed: Weighed) -> Claim:
    return Claim(entry.name, weighed, entry.engine.kv_cache_memory_bytes, entry.kv_share, entry.is_pinned)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a model may use: in all, and of that for its KV cache."""

    name: str
    kv_bytes: int
    need_bytes: int
    has_kv_cache: bool = True  # False: those bytes are for batches of texts that are pooled


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    limit_bytes: int
    grants: tuple[Grant, ...]


def plan_memory(claims: Sequence[Claim], limit_bytes: int | None, *, loads_on_demand: bool) -> MemoryPlan:
    """Divide `limit_bytes`, by default most of what is free.

    Models that are loaded together, all of them or on demand the pinned ones, share what their weights leave for KV
    caches: each gets the least that it needs, and of the rest what it asked for, or a part by its share. One that comes
    and goes is planned as if it had what the pinned ones leave to itself.

    Raises StartupError, with the sum, if they do not fit.
    """
    limit = limit_bytes or int(min(claim.weighed.free_bytes for claim in claims) * _FREE_SHARE)
    together = [claim for claim in claims if claim.is_pinned or not loads_on_demand]
    apart = [claim for claim in claims if claim not in together]
    largest = max(apart, key=_least_bytes, default=None)
    beside = 0 if largest is None else _least_bytes(largest)
    _check(together, largest, limit, is_given=limit_bytes is not None, loads_on_demand=loads_on_demand)
    kv_sizes = _shared(together, limit - beside)
    grants = {name: _grant(claim, kv) for claim, (name, kv) in zip(together, kv_sizes.items(), strict=True)}
    left = limit - sum(grant.need_bytes for grant in grants.values())
    for claim in apart:
        room = left - claim.fixed_bytes
        kv = max(claim.least_kv_bytes, min(claim.wanted_kv_bytes, int(room * _KV_SHARE)))
        grants[claim.name] = _grant(claim, min(kv, room))
    return MemoryPlan(limit, tuple(grants[claim.name] for claim in claims))


def _least_bytes(claim: Claim) -> int:
    return claim.fixed_bytes + claim.least_kv_bytes


def _grant(claim: Claim, kv_bytes: int) -> Grant:
    return Grant(claim.name, kv_bytes, claim.fixed_bytes + kv_bytes, claim.weighed.has_kv_cache)


def _shared(claims: Sequence[Claim], limit: int) -> dict[str, int]:
    """Bytes of each KV cache: all at their least, then by share up to what each wants; a part of the room is left, as
    of a model alone, unless sizes were asked for."""
    sizes = {claim.name: claim.least_kv_bytes for claim in claims}
    room = int((limit - sum(claim.fixed_bytes for claim in claims)) * _KV_SHARE)
    room -= sum(sizes.values())
    open_claims = [claim for claim in claims if sizes[claim.name] < claim.wanted_kv_bytes]
    while open_claims and room > 0:
        total = sum(claim.kv_share for claim in open_claims)
        parts = {
            claim.name: min(claim.wanted_kv_bytes - sizes[claim.name], int(room * claim.kv_share / total))
            for claim in open_claims
        }
        for name, part in parts.items():
            sizes[name] += part
        room -= sum(parts.values())
        still_open = [claim for claim in open_claims if sizes[claim.name] < claim.wanted_kv_bytes]
        if len(still_open) == len(open_claims):
            break  # each has its part
        open_claims = still_open
    return sizes


def _check(
    together: Sequence[Claim], largest: Claim | None, limit: int, *, is_given: bool, loads_on_demand: bool
) -> None:
    counted = [*together, *([] if largest is None else [largest])]
    needed = sum(map(_least_bytes, counted))
    if needed <= limit:
        return
    lines = "; ".join(
        f"{claim.name}: {_gib(claim.weighed.weight_bytes)} of weights + {_gib(claim.least_kv_bytes)} of KV cache + "
        f"{_adapters(claim)}{_gib(PROCESS_BYTES)} for its process"
        for claim in counted
    )
    limited = "--models-memory" if is_given else f"{_FREE_SHARE:.0%} of what is free"
    remedy = "choose fewer or smaller models or fewer bits (quantization), or a shorter --max-model-len"
    if not loads_on_demand and max(map(_least_bytes, counted)) <= limit:
        remedy += ", or have them come and go (--load-on-demand)"
    if any(claim.weighed.adapter_bytes for claim in counted):
        remedy += ", or fewer or smaller adapters (max-lora-rank, max-loras, max-cpu-loras)"
    raise StartupError(
        f"the models need {_gib(needed)} together and may have {_gib(limit)} ({limited}): {lines}; {remedy}"
    )


def _adapters(claim: Claim) -> str:
    num_bytes = claim.weighed.adapter_bytes
    return f"{_gib(num_bytes)} for adapters + " if num_bytes else ""


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB"
