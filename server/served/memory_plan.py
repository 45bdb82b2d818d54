"""plan_memory: divides the memory of the host and of each GPU between models, first for weights, then for KV caches."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.command_io.weighing import Weighed
from engine.errors import StartupError
from engine.kv_tiers.tier import most_moving_bytes
from engine.wording import gib
from server.config.models import ModelEntry

PROCESS_BYTES = 512 << 20  # of an engine process without weights and KV cache: libraries, buffers of a step
# An engine on a GPU, in the host's memory, where CUDA's libraries and its context take more, and on the GPU, where the
# context, libraries and a step do. Estimates, not measured.
_GPU_HOST_BYTES, _GPU_STEP_BYTES = 2 << 30, 2 << 30
HOST = "cpu"
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
    gpu_share: float = 1.0  # the option --gpu-memory-utilization

    @property
    def fixed_bytes(self) -> int:
        return self.weighed.weight_bytes + self.weighed.adapter_bytes + process_bytes(self.weighed.device)

    def moving_bytes(self, kv_bytes: int) -> int:
        """Return the memory of blocks on their way to and from disk, beside a KV cache of `kv_bytes` on the host."""
        return most_moving_bytes(kv_bytes) if self.offloads and self.weighed.is_on_host else 0

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that a model on a GPU takes; 0 for one on the host."""
        if self.weighed.is_on_host:
            return 0
        return _GPU_HOST_BYTES + (most_moving_bytes(self.wanted_kv_bytes) if self.offloads else 0)

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
        return min(most, _CPU_KV_LIMIT_BYTES) if self.weighed.is_on_host else most


def process_bytes(device: str) -> int:
    """Return the memory of an engine on its device besides weights, adapters and KV cache."""
    return PROCESS_BYTES if device == HOST else _GPU_STEP_BYTES


def memory_need(entry: ModelEntry, weighed: Weighed) -> MemoryNeed:
    offloads = entry.engine.kv_offload_dir is not None and weighed.has_kv_cache
    kv_bytes, share = entry.engine.kv_cache_memory_bytes, entry.engine.gpu_memory_utilization
    return MemoryNeed(entry.name, weighed, kv_bytes, entry.kv_share, entry.is_pinned, offloads, share)


@dataclass(frozen=True, slots=True)
class MemoryGrant:
    """The memory that a model may use on its device. need_bytes: the total, with kv_bytes for the KV cache."""

    name: str
    kv_bytes: int
    need_bytes: int
    has_kv_cache: bool = True  # False: a pooling model, which uses kv_bytes for batches of texts
    device: str = HOST


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The limit of all models together on each device that has any, and each model's part."""

    limits: Mapping[str, int]
    grants: tuple[MemoryGrant, ...]


def plan_memory(needs: Sequence[MemoryNeed], limit_bytes: int | None, *, loads_on_demand: bool) -> MemoryPlan:
    """Divide the memory of each device between its models. limit_bytes: of the host's memory; by default most of what
    is free. Of a GPU's free memory, its models get the least share that one of them names; engines of GPUs also take
    host memory, which the host's models do not get: that of all that may be loaded at the same time.

    Models that are loaded at the same time (all, or only the pinned ones with loads_on_demand) share the memory that
    their weights leave for KV caches: each gets its minimum, and the rest is divided by kv_share, up to the size that
    each wants. An on-demand model is planned as if it were the only one loaded besides the pinned models.

    Raises StartupError, with the memory needed, if the models do not fit.
    """
    limits: dict[str, int] = {}
    grants: dict[str, MemoryGrant] = {}
    engines_bytes = _host_bytes_of_gpus(needs, loads_on_demand=loads_on_demand)
    for device in dict.fromkeys(need.weighed.device for need in needs):
        of_device = [need for need in needs if need.weighed.device == device]
        if device != HOST:
            limits[device] = _gpu_limit(of_device)
        else:
            limit = limit_bytes or int(min(need.weighed.free_bytes for need in of_device) * _FREE_SHARE)
            limits[device] = limit - engines_bytes
        plan = _plan_device(
            of_device, limits[device], is_given=limit_bytes is not None, loads_on_demand=loads_on_demand
        )
        grants.update({grant.name: grant for grant in plan})
    _check_host(needs, engines_bytes, limit_bytes)
    return MemoryPlan(limits, tuple(grants[need.name] for need in needs))


def _gpu_limit(needs: Sequence[MemoryNeed]) -> int:
    return int(min(need.weighed.free_bytes * need.gpu_share for need in needs))


def _host_bytes_of_gpus(needs: Sequence[MemoryNeed], *, loads_on_demand: bool) -> int:
    """Return the host memory of the engines on GPUs: of those that stay loaded, and of as many on-demand models as one
    GPU has memory for at a time."""
    total = 0
    for device in dict.fromkeys(need.weighed.device for need in needs if not need.weighed.is_on_host):
        of_device = [need for need in needs if need.weighed.device == device]
        stay = [need for need in of_device if need.is_pinned or not loads_on_demand]
        others = [need for need in of_device if need not in stay]
        left = _gpu_limit(of_device) - sum(map(_least_bytes, stay))
        taken = itertools.accumulate(sorted(map(_least_bytes, others)))
        num_loaded = max(1, sum(each <= left for each in taken))
        total += sum(need.host_bytes for need in stay)
        total += sum(sorted((need.host_bytes for need in others), reverse=True)[:num_loaded])
    return total


def _check_host(needs: Sequence[MemoryNeed], needed: int, limit_bytes: int | None) -> None:
    """Raise StartupError if engines of GPUs find too little host memory. (Beside models on the host, these are
    refused.)"""
    on_gpu = [need for need in needs if not need.weighed.is_on_host]
    if not on_gpu or len(on_gpu) < len(needs):
        return
    limit = limit_bytes or int(min(need.weighed.host_free_bytes for need in on_gpu) * _FREE_SHARE)
    if needed > limit:
        raise StartupError(
            f"the engines of {len(on_gpu)} models on GPUs need {gib(needed)} of host memory and may have {gib(limit)}; "
            "serve fewer models, or free memory"
        )


def _plan_device(
    needs: Sequence[MemoryNeed], limit: int, *, is_given: bool, loads_on_demand: bool
) -> list[MemoryGrant]:
    """Return the parts of models that share one memory. is_given: whether an option sets the limit."""
    together = [need for need in needs if need.is_pinned or not loads_on_demand]
    apart = [need for need in needs if need not in together]
    largest = max(apart, key=_least_bytes, default=None)
    beside = 0 if largest is None else _least_bytes(largest)
    _check(together, largest, limit, is_given=is_given, loads_on_demand=loads_on_demand)
    kv_sizes = _shared(together, limit - beside)
    grants = {name: _grant(need, kv) for need, (name, kv) in zip(together, kv_sizes.items(), strict=True)}
    left = limit - sum(grant.need_bytes for grant in grants.values())
    for need in apart:
        room = left - need.total_bytes(0)
        kv = max(need.least_kv_bytes, min(need.wanted_kv_bytes, int(room * _kv_share(need))))
        grants[need.name] = _grant(need, min(kv, room))
    return [grants[need.name] for need in needs]


def _kv_share(need: MemoryNeed) -> float:
    return _KV_SHARE if need.weighed.is_on_host else 1.0  # a GPU's memory is for engines alone


def _least_moving(need: MemoryNeed) -> int:
    return need.moving_bytes(need.least_kv_bytes)


def _least_bytes(need: MemoryNeed) -> int:
    return need.total_bytes(need.least_kv_bytes)


def _grant(need: MemoryNeed, kv_bytes: int) -> MemoryGrant:
    return MemoryGrant(need.name, kv_bytes, need.total_bytes(kv_bytes), need.weighed.has_kv_cache, need.weighed.device)


def _shared(needs: Sequence[MemoryNeed], limit: int) -> dict[str, int]:
    """Return the size of each model's KV cache: its minimum, plus its share of the rest up to the wanted size."""
    sizes = {need.name: need.least_kv_bytes for need in needs}
    share = min(map(_kv_share, needs), default=_KV_SHARE)
    room = int((limit - sum(need.total_bytes(0) for need in needs)) * share)
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
        + f"{gib(process_bytes(need.weighed.device))} for its process"
        for need in counted
    )
    device = counted[0].weighed.device
    limited = "--models-memory" if is_given else f"{_FREE_SHARE:.0%} of what is free"
    if device != HOST:
        limited = f"what --gpu-memory-utilization leaves of what is free on {device}"
    remedy = "choose fewer or smaller models or fewer bits (quantization), or a shorter --max-model-len"
    if not loads_on_demand and max(map(_least_bytes, counted)) <= limit:
        remedy += ", or load models on demand (--load-on-demand)"
    if any(need.weighed.adapter_bytes for need in counted):
        remedy += ", or fewer or smaller adapters (max-lora-rank, max-loras, max-cpu-loras)"
    raise StartupError(
        f"the models need {gib(needed)} together and may have {gib(limit)} ({limited}): {parts}; {remedy}"
    )
