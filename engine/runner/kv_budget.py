"""How large the KV cache may be: from free memory, the container's limit, and what the requests can use."""

from bisect import bisect_right
from dataclasses import dataclass

import torch

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.scheduling.kv.groups import KVGroup, peak_blocks

# On a CPU other programs live in the same memory, and a larger pool than this serves few.
_CPU_SHARE = 0.4
_CPU_LIMIT_BYTES = 4 << 30
# On a device all memory is ours, less what activations and the allocator's fragmentation need.
_CUDA_SHARE = 0.85
# How memory is divided between keys and values, which grow with a text, and recurrent states, which do not: a text of a
# usual length needs the state with which it runs, one at the end of its prompt and one at the end of its answer.
_USUAL_TEXT = 8192
_STATES_OF_TEXT = 3
_LITTLE = 0.125  # of the memory: up to here states are not counted


@dataclass(frozen=True, slots=True)
class KVBudget:
    """The pools that were chosen. `reason` says why, for the operator."""

    num_blocks: int
    kv_bytes: int
    max_model_len: int
    reason: str
    num_states: int = 0
    state_bytes: int = 0


def plan_kv_budget(
    config: EngineConfig,
    *,
    groups: tuple[KVGroup, ...],
    bytes_per_block: int,
    bytes_per_state: int = 0,
    model_max_len: int,
    free_bytes: int,
    device: torch.device,
) -> KVBudget:
    """Blocks of the pool and the longest request it admits, and the recurrent states beside them.

    bytes_per_state: of all recurrent layers of the model; 0 without such layers. Raises StartupError if not even one
    block fits, or if more context was asked for than model or pool can hold.
    """
    wanted_len = config.max_model_len or model_max_len
    if wanted_len > model_max_len:
        raise StartupError(
            f"--max-model-len is {wanted_len:,}; the model takes at most {model_max_len:,} tokens; lower it"
        )
    needs = _Needs(groups, bytes_per_block, bytes_per_state)
    num_bytes, reason = _bytes_in_all(config, needs, wanted_len, free_bytes, device)
    num_states = needs.num_states(num_bytes, config.max_num_seqs, wanted_len, min_len=config.max_model_len or 1)
    num_blocks = (num_bytes - num_states * bytes_per_state) // bytes_per_block
    return KVBudget(
        num_blocks,
        num_blocks * bytes_per_block,
        _served_len(config, needs, num_bytes, num_blocks, wanted_len),
        reason,
        num_states=num_states,
        state_bytes=num_states * bytes_per_state,
    )


@dataclass(frozen=True, slots=True)
class _Needs:
    """What texts take."""

    groups: tuple[KVGroup, ...]
    bytes_per_block: int
    bytes_per_state: int

    def of_text(self, num_tokens: int, num_states: int = 1) -> int:
        """Bytes of the keys and values of a text, and of its recurrent states."""
        return peak_blocks(self.groups, num_tokens) * self.bytes_per_block + num_states * self.bytes_per_state

    def num_states(self, num_bytes: int, max_num_seqs: int, wanted_len: int, *, min_len: int) -> int:
        """How many states `num_bytes` should have room for, beside a text of at least `min_len` tokens.

        As many as texts of a usual length need; all that running requests can use where that is little.
        """
        if not self.bytes_per_state:
            return 0
        if num_bytes == self.of_text(wanted_len, _STATES_OF_TEXT) * max_num_seqs:  # all that can be used
            return max_num_seqs * _STATES_OF_TEXT
        usual = self.of_text(_USUAL_TEXT, _STATES_OF_TEXT)
        by_share = num_bytes * _STATES_OF_TEXT // usual
        for_all = min(max_num_seqs * _STATES_OF_TEXT, int(num_bytes * _LITTLE) // self.bytes_per_state)
        most = (num_bytes - self.of_text(min_len, 0)) // self.bytes_per_state
        return max(1, min(max(by_share, for_all), most))


def _served_len(config: EngineConfig, needs: _Needs, num_bytes: int, num_blocks: int, wanted_len: int) -> int:
    """The longest text that the pool holds, up to `wanted_len`. Raises StartupError if that is too little."""
    if num_blocks < peak_blocks(needs.groups, 1):
        raise StartupError(
            f"{format_bytes(num_bytes)} of memory for the KV cache do not hold one block of {config.block_size} tokens "
            f"{'and one recurrent state ' if needs.bytes_per_state else ''}({format_bytes(needs.of_text(1))}); "
            "free memory or raise --kv-cache-memory-bytes"
        )
    holds = _longest_text(needs.groups, num_blocks, wanted_len)
    if config.max_model_len is not None and config.max_model_len > holds:
        needed = needs.of_text(config.max_model_len)
        raise StartupError(
            f"--max-model-len is {config.max_model_len:,}; the KV cache holds {holds:,} tokens; lower it to {holds:,} "
            f"or give --kv-cache-memory-bytes {needed} ({format_bytes(needed)})"
        )
    return holds


def _bytes_in_all(
    config: EngineConfig, needs: _Needs, wanted_len: int, free_bytes: int, device: torch.device
) -> tuple[int, str]:
    """The cache's size, and where the number comes from."""
    if config.kv_cache_memory_bytes is not None:
        num_bytes = config.kv_cache_memory_bytes
        if num_bytes > free_bytes:
            raise StartupError(
                f"--kv-cache-memory-bytes is {format_bytes(num_bytes)}; {format_bytes(free_bytes)} of memory are free "
                "after loading the weights; lower it"
            )
        return num_bytes, "as asked for"
    num_bytes, reason = _default_bytes(free_bytes, device)
    useful = needs.of_text(wanted_len, _STATES_OF_TEXT) * config.max_num_seqs
    if useful < num_bytes:
        return useful, f"all that {config.max_num_seqs} requests of {wanted_len:,} tokens can use"
    return num_bytes, reason


def format_bytes(count: int) -> str:
    """1,932,735,283 as '1.8 GiB'."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _default_bytes(free_bytes: int, device: torch.device) -> tuple[int, str]:
    if device.type == "cuda":
        return int(free_bytes * _CUDA_SHARE), f"{_CUDA_SHARE:.0%} of the device's free memory"
    share = int(free_bytes * _CPU_SHARE)
    if share > _CPU_LIMIT_BYTES:
        return _CPU_LIMIT_BYTES, f"the default's bound, {format_bytes(_CPU_LIMIT_BYTES)}"
    return share, f"{_CPU_SHARE:.0%} of free memory"


def _longest_text(groups: tuple[KVGroup, ...], num_blocks: int, wanted_len: int) -> int:
    """The most tokens of one sequence, up to `wanted_len`, that the pool holds."""
    return bisect_right(range(1, wanted_len + 1), num_blocks, key=lambda num_tokens: peak_blocks(groups, num_tokens))
