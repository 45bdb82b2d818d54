"""plan_memory: divides the memory limit between models, first for weights, then for KV caches."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.command_io.weighing import Weighed
from engine.errors import StartupError
from engine.kv_tiers.tier import most_moving_bytes
from engine.wording import gib
from server.config.models import ModelEntry

PROCESS_BYTES = 512 << 20  # of an engine process without weights and KV cache: libraries, buffers of a step
_FREE_SHARE = 0.8  # of the free memory at the start; the rest is for this process, the system and its cache
_KV_SHARE = 0.4  # of what the weights leave, for KV caches; as an engine chooses that is alone
_CPU_KV_LIMIT_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The memory that one model needs at least, and the KV cache that it can use."""

    name: str
    weighed: Weighed
    kv_bytes: int | None = None  # the option --kv-cache-memory-bytes
    kv_share: float = 1.0
    is_pinned: bool = False
    offloads: bool = False  # blocks of the KV cache move to and from disk, through host memory

    @property
    def fixed_bytes(self) -> int:
        return self.weighed.weight_bytes + self.weighed.adapter_bytes + PROCESS_BYTES

    def moving_bytes(self, kv_bytes: int) -> int:
        """Return the memory of blocks on their way to and from disk, beside a KV cache of `kv_bytes`."""
        return most_moving_bytes(kv_bytes) if self.offloads else 0

    def total_bytes(self, kv_bytes: int) -> int:
        return self.fixed_bytes + kv_bytes + self.moving_bytes(kv_bytes)

    @property
    def least_kv_bytes(self) -> int:
        return self.weighed.least_kv_bytes if self.kv_bytes is None else self.kv_bytes

    @property
    def wanted_kv_bytes(self) -> int:
        if self.kv_bytes is not None:
            return self.kv_bytes
        most = self.weighed.most_kv_bytes
        return min(most, _CPU_KV_LIMIT_BYTES) if self.weighed.is_on_cpu else most


def memory_need(entry: ModelEntry, weighed: Weighed) -> MemoryNeed:
    offloads = entry.engine.kv_offload_dir is not None and weighed.has_kv_cache
    kv_bytes = entry.engine.kv_cache_memory_bytes
    return MemoryNeed(entry.name, weighed, kv_bytes, entry.kv_share, entry.is_pinned, offloads)


@dataclass(frozen=True, slots=True)
class MemoryGrant:
    """The memory that a model may use. need_bytes: the total, which includes kv_bytes for the KV cache."""

    name: str
    kv_bytes: int
    need_bytes: int
    has_kv_cache: bool = True  # False: a pooling model, which uses kv_bytes for batches of texts


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    limit_bytes: int
    grants: tuple[MemoryGrant, ...]


def plan_memory(needs: Sequence[MemoryNeed], limit_bytes: int | None, *, loads_on_demand: bool) -> MemoryPlan:
    """Divide the memory limit between models. limit_bytes: by default most of the free memory.

    Models that are loaded at the same time (all, or only the pinned ones with loads_on_demand) share the memory that
    their weights leave for KV caches: each gets its minimum, and the rest is divided by kv_share, up to the size that
    each wants. An on-demand model is planned as if it were the only one loaded besides the pinned models.

    Raises StartupError, with the memory needed, if the models do not fit.
    """
    limit = limit_bytes or int(min(need.weighed.free_bytes for need in needs) * _FREE_SHARE)
    together = [need for need in needs if need.is_pinned or not loads_on_demand]
    apart = [need for need in needs if need not in together]
    largest = max(apart, key=_least_bytes, default=None)
    beside = 0 if largest is None else _least_bytes(largest)
    _check(together, largest, limit, is_given=limit_bytes is not None, loads_on_demand=loads_on_demand)
    kv_sizes = _shared(together, limit - beside)
    grants = {name: _grant(need, kv) for need, (name, kv) in zip(together, kv_sizes.items(), strict=True)}
    left = limit - sum(grant.need_bytes for grant in grants.values())
    for need in apart:
        room = left - need.total_bytes(0)
        kv = max(need.least_kv_bytes, min(need.wanted_kv_bytes, int(room * _KV_SHARE)))
        grants[need.name] = _grant(need, min(kv, room))
    return MemoryPlan(limit, tuple(grants[need.name] for need in needs))


def _least_moving(need: MemoryNeed) -> int:
    return need.moving_bytes(need.least_kv_bytes)


def _least_bytes(need: MemoryNeed) -> int:
    return need.total_bytes(need.least_kv_bytes)


def _grant(need: MemoryNeed, kv_bytes: int) -> MemoryGrant:
    return MemoryGrant(need.name, kv_bytes, need.total_bytes(kv_bytes), need.weighed.has_kv_cache)


def _shared(needs: Sequence[MemoryNeed], limit: int) -> dict[str, int]:
    """Return the size of each model's KV cache: its minimum, plus its share of the rest up to the wanted size."""
    sizes = {need.name: need.least_kv_bytes for need in needs}
    room = int((limit - sum(need.total_bytes(0) for need in needs)) * _KV_SHARE)
    room -= sum(sizes.values())
    open_needs = [need for need in needs if sizes[need.name] < need.wanted_kv_bytes]
    while open_needs and room > 0:
        total = sum(need.kv_share for need in open_needs)
        parts = {
            need.name: min(need.wanted_kv_bytes - sizes[need.name], int(room * need.kv_share / total))
            for need in open_needs
        }
        for name, part in parts.items():
            sizes[name] += part
        room -= sum(parts.values())
        still_open = [need for need in open_needs if sizes[need.name] < need.wanted_kv_bytes]
        if len(still_open) == len(open_needs):
            break  # each has its part
        open_needs = still_open
    return sizes


def _check(
    together: Sequence[MemoryNeed], largest: MemoryNeed | None, limit: int, *, is_given: bool, loads_on_demand: bool
) -> None:
    counted = [*together, *([] if largest is None else [largest])]
    needed = sum(map(_least_bytes, counted))
    if needed <= limit:
        return
    parts = "; ".join(
        f"{need.name}: {gib(need.weighed.weight_bytes)} of weights + {gib(need.least_kv_bytes)} of KV cache + "
        + (f"{gib(need.weighed.adapter_bytes)} for adapters + " if need.weighed.adapter_bytes else "")
        + (f"{gib(moving)} for blocks on their way to and from disk + " if (moving := _least_moving(need)) else "")
        + f"{gib(PROCESS_BYTES)} for its process"
        for need in counted
    )
    limited = "--models-memory" if is_given else f"{_FREE_SHARE:.0%} of what is free"
    remedy = "choose fewer or smaller models or fewer bits (quantization), or a shorter --max-model-len"
    if not loads_on_demand and max(map(_least_bytes, counted)) <= limit:
        remedy += ", or load models on demand (--load-on-demand)"
    if any(need.weighed.adapter_bytes for need in counted):
        remedy += ", or fewer or smaller adapters (max-lora-rank, max-loras, max-cpu-loras)"
    raise StartupError(
        f"the models need {gib(needed)} together and may have {gib(limit)} ({limited}): {parts}; {remedy}"
    )
