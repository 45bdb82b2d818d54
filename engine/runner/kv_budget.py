"""Sizing of the KV cache: from free memory, the container's limit, and the most that requests can use."""

from bisect import bisect_right
from dataclasses import dataclass

from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.scheduling.kv.groups import KVGroup, peak_blocks

# On a CPU other programs use the same memory, and few can use a larger pool than this.
_CPU_SHARE = 0.4
_CPU_LIMIT_BYTES = 4 << 30
# The division of memory between keys and values, which grow with a sequence, and recurrent states, which do not: a
# sequence of the usual length needs the state with which it runs, one at the end of its prompt and one at its own end.
_USUAL_LEN = 8192
STATES_PER_SEQUENCE = 3
_SMALL_SHARE = 0.125  # of the memory: if states need less, there are some for all running sequences
# A context this short was probably not intended: less than a chat needs, or than a small part of the model's.
_SHORT_LEN, _SHORT_PART = 512, 8


@dataclass(frozen=True, slots=True)
class KVBudget:
    """The chosen sizes of the KV pool and the state pool. `reason` and `warnings` are log lines for the operator."""

    num_blocks: int
    kv_bytes: int
    max_model_len: int
    reason: str
    num_states: int = 0
    state_bytes: int = 0
    warnings: tuple[str, ...] = ()


def plan_kv_budget(
    config: EngineConfig,
    *,
    groups: tuple[KVGroup, ...],
    bytes_per_block: int,
    bytes_per_state: int = 0,
    model_max_len: int,
    free_bytes: int,
    reserved_bytes: int = 0,
    default_bytes: int | None = None,
) -> KVBudget:
    """Choose the number of KV blocks and recurrent states, and the longest request that fits.

    bytes_per_block: 0 without attention. bytes_per_state: over all recurrent layers; 0 without such layers.
    reserved_bytes: free memory that the cache must leave for other uses, unless --kv-cache-memory-bytes is set.
    default_bytes: what --gpu-memory-utilization leaves for the cache and other uses; None on a CPU. Raises
    StartupError if not even one block fits, or if the model or the pool cannot hold the requested context.
    """
    check_context(config, model_max_len)
    requested_len = config.max_model_len or model_max_len
    demand = CacheDemand(groups, bytes_per_block, bytes_per_state)
    num_bytes, reason = _total_bytes(config, demand, requested_len, free_bytes, reserved_bytes, default_bytes)
    num_states = demand.num_states(num_bytes, config.max_num_seqs, requested_len, min_len=config.max_model_len or 1)
    num_blocks = (num_bytes - num_states * bytes_per_state) // bytes_per_block if bytes_per_block else 0
    served_len = _served_len(config, demand, num_bytes, num_blocks, requested_len)
    is_short = served_len < requested_len and (served_len < _SHORT_LEN or served_len * _SHORT_PART < requested_len)
    return KVBudget(
        num_blocks,
        num_blocks * bytes_per_block,
        served_len,
        reason,
        num_states=num_states,
        state_bytes=num_states * bytes_per_state,
        warnings=(_short_context(demand, num_bytes, served_len, requested_len),) if is_short else (),
    )


def too_large_cache(num_bytes: int, free_bytes: int) -> str:
    """Say that the --kv-cache-memory-bytes of the options are more than the weights leave."""
    return (
        f"--kv-cache-memory-bytes is {format_bytes(num_bytes)}; {format_bytes(free_bytes)} of memory are free "
        "after loading the weights; lower it"
    )


def check_context(config: EngineConfig, model_max_len: int) -> None:
    """Raise OptionError if --max-model-len is more than the model takes."""
    if (requested_len := config.max_model_len) is not None and requested_len > model_max_len:
        raise OptionError(
            f"--max-model-len is {requested_len:,}; the model takes at most {model_max_len:,} tokens; lower it, or "
            "leave it out"
        )


@dataclass(frozen=True, slots=True)
class CacheDemand:
    """Memory needs of sequences. bytes_per_block, bytes_per_state: as in `plan_kv_budget`."""

    groups: tuple[KVGroup, ...]
    bytes_per_block: int
    bytes_per_state: int

    def sequence_bytes(self, num_tokens: int, num_states: int = 1) -> int:
        """Return the peak bytes of one sequence: KV blocks for `num_tokens` tokens, and recurrent states."""
        return peak_blocks(self.groups, num_tokens) * self.bytes_per_block + num_states * self.bytes_per_state

    def num_states(self, num_bytes: int, max_num_seqs: int, requested_len: int, *, min_len: int) -> int:
        """Return how many recurrent states to allocate from `num_bytes`, leaving KV blocks for a sequence of `min_len`
        tokens.

        Enough for sequences of the usual length, or for all running sequences if states are small.
        """
        if not self.bytes_per_state:
            return 0
        if num_bytes == self.sequence_bytes(requested_len, STATES_PER_SEQUENCE) * max_num_seqs:  # all that can be used
            return max_num_seqs * STATES_PER_SEQUENCE
        usual = self.sequence_bytes(_USUAL_LEN, STATES_PER_SEQUENCE)
        num_by_share = num_bytes * STATES_PER_SEQUENCE // usual
        num_for_all = min(max_num_seqs * STATES_PER_SEQUENCE, int(num_bytes * _SMALL_SHARE) // self.bytes_per_state)
        most = (num_bytes - self.sequence_bytes(min_len, 0)) // self.bytes_per_state
        return max(1, min(max(num_by_share, num_for_all), most))


def _served_len(config: EngineConfig, demand: CacheDemand, num_bytes: int, num_blocks: int, requested_len: int) -> int:
    """Return the longest sequence that fits, up to `requested_len`. Raises StartupError if --max-model-len does not."""
    if num_blocks < peak_blocks(demand.groups, 1) or num_bytes < demand.bytes_per_state:
        if not demand.bytes_per_block:
            raise StartupError(
                f"{format_bytes(num_bytes)} of memory do not hold one recurrent state "
                f"({format_bytes(demand.bytes_per_state)}); free memory or raise --kv-cache-memory-bytes"
            )
        state = "and one recurrent state " if demand.bytes_per_state else ""
        raise StartupError(
            f"{format_bytes(num_bytes)} of memory for the KV cache do not hold one block of {config.block_size} tokens "
            f"{state}({format_bytes(demand.sequence_bytes(1))}); "
            "free memory or raise --kv-cache-memory-bytes"
        )
    lengths = range(1, requested_len + 1)
    max_len = bisect_right(lengths, num_blocks, key=lambda num_tokens: peak_blocks(demand.groups, num_tokens))
    if config.max_model_len is not None and config.max_model_len > max_len:
        needed = demand.sequence_bytes(config.max_model_len)
        raise StartupError(
            f"--max-model-len is {config.max_model_len:,}; the KV cache holds {max_len:,} tokens; lower it to "
            f"{max_len:,} or give --kv-cache-memory-bytes {needed} ({format_bytes(needed)})"
        )
    return max_len


def _short_context(demand: CacheDemand, num_bytes: int, served_len: int, model_max_len: int) -> str:
    needed = demand.sequence_bytes(model_max_len)
    return (
        f"the KV cache of {format_bytes(num_bytes)} holds {served_len:,} tokens, but the model takes "
        f"{model_max_len:,}; longer requests are refused; give --kv-cache-memory-bytes {needed} "
        f"({format_bytes(needed)}) for all of them, or --max-model-len {served_len} if that is enough"
    )


def _total_bytes(
    config: EngineConfig,
    demand: CacheDemand,
    requested_len: int,
    free_bytes: int,
    reserved_bytes: int,
    default_bytes: int | None,
) -> tuple[int, str]:
    """Return the cache's size, and the reason for it as a log text."""
    if config.kv_cache_memory_bytes is not None:
        num_bytes = config.kv_cache_memory_bytes
        if num_bytes > free_bytes:
            raise StartupError(too_large_cache(num_bytes, free_bytes))
        return num_bytes, "as set for this model"
    if default_bytes is None:
        num_bytes, reason = _share_of_host(free_bytes - reserved_bytes)
    else:
        num_bytes = max(0, default_bytes - reserved_bytes)
        reason = f"what --gpu-memory-utilization {config.gpu_memory_utilization:g} leaves beside a full step"
    useful = demand.sequence_bytes(requested_len, STATES_PER_SEQUENCE) * config.max_num_seqs
    if useful < num_bytes:
        return useful, f"all that {config.max_num_seqs} requests of {requested_len:,} tokens can use"
    return num_bytes, reason


def format_bytes(count: int) -> str:
    """Format a number of bytes, such as 1,932,735,283 as '1.8 GiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _share_of_host(free_bytes: int) -> tuple[int, str]:
    share = int(free_bytes * _CPU_SHARE)
    if share > _CPU_LIMIT_BYTES:
        return _CPU_LIMIT_BYTES, f"the default's bound, {format_bytes(_CPU_LIMIT_BYTES)}"
    return share, f"{_CPU_SHARE:.0%} of free memory"
