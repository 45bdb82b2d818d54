"""How large the KV cache may be: from free memory, the container's limit, and what the requests can use."""

from bisect import bisect_right
from dataclasses import dataclass

import torch

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.kv.groups import KVGroup, most_blocks

# On a CPU other programs live in the same memory, and a larger pool than this serves few.
_CPU_SHARE = 0.4
_CPU_LIMIT_BYTES = 4 << 30
# On a device all memory is ours, less what activations and the allocator's fragmentation need.
_CUDA_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class KVBudget:
    """The pool that was chosen. `reason` says why, for the operator."""

    num_blocks: int
    kv_bytes: int
    max_model_len: int
    reason: str


def plan_kv_budget(
    config: EngineConfig,
    *,
    groups: tuple[KVGroup, ...],
    bytes_per_block: int,
    model_max_len: int,
    free_bytes: int,
    device: torch.device,
) -> KVBudget:
    """Blocks of the pool and the longest request it admits.

    Raises StartupError if not even one block fits, or if more context was asked for than model or pool can hold.
    """
    block_size = config.block_size
    wanted_len = config.max_model_len or model_max_len
    if wanted_len > model_max_len:
        raise StartupError(
            f"--max-model-len is {wanted_len:,}; the model takes at most {model_max_len:,} tokens; lower it"
        )
    if config.kv_cache_memory_bytes is not None:
        kv_bytes, reason = config.kv_cache_memory_bytes, "as asked for"
        if kv_bytes > free_bytes:
            raise StartupError(
                f"--kv-cache-memory-bytes is {format_bytes(kv_bytes)}; {format_bytes(free_bytes)} of memory are free "
                "after loading the weights; lower it"
            )
    else:
        kv_bytes, reason = _default_bytes(free_bytes, device)
        useful = most_blocks(groups, wanted_len) * config.max_num_seqs * bytes_per_block
        if useful < kv_bytes:
            kv_bytes, reason = useful, f"all that {config.max_num_seqs} requests of {wanted_len:,} tokens can use"
    num_blocks = kv_bytes // bytes_per_block
    smallest = most_blocks(groups, 1)
    if num_blocks < smallest:
        raise StartupError(
            f"{format_bytes(kv_bytes)} of memory for the KV cache do not hold one block of {block_size} tokens "
            f"({format_bytes(smallest * bytes_per_block)}); free memory or raise --kv-cache-memory-bytes"
        )
    holds = _longest_text(groups, num_blocks, wanted_len)
    if config.max_model_len is not None and config.max_model_len > holds:
        needed = most_blocks(groups, config.max_model_len) * bytes_per_block
        raise StartupError(
            f"--max-model-len is {config.max_model_len:,}; the KV cache holds {holds:,} tokens; lower it to {holds:,} "
            f"or give --kv-cache-memory-bytes {needed} ({format_bytes(needed)})"
        )
    return KVBudget(num_blocks, num_blocks * bytes_per_block, min(wanted_len, holds), reason)


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
    return bisect_right(range(1, wanted_len + 1), num_blocks, key=lambda num_tokens: most_blocks(groups, num_tokens))
