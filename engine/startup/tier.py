"""Opening of the tier below the KV cache: blocks on disk, if --kv-offload-dir is given."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import torch

from engine.child_processes.fault_plan import FaultPlan
from engine.config import EngineConfig
from engine.errors import OptionError
from engine.faults.wrappers import FaultyFolder
from engine.kv_tiers.block_folder import BlockFolder
from engine.kv_tiers.disk import DiskTier
from engine.kv_tiers.tier import QUEUE_BYTES, most_moving_bytes
from engine.protocol.kv_events import DISK, BlockRemoved, BlockStored, EventPublisher, KVEvent, block_hash
from engine.runner.kv_budget import format_bytes
from engine.runner.runner import TorchRunner
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.kv.prefixes import group_of_key
from engine.startup.identity import compute_identity, kv_fingerprint
from engine.startup.load import EngineModels
from engine.wording import counted
from models.errors import ModelError
from models.loaded_model import LoadedModel
from models.system.memory import is_host


def open_tier(
    config: EngineConfig,
    models: EngineModels,
    runner: TorchRunner,
    faults: FaultPlan | None = None,
    publisher: EventPublisher | None = None,
) -> DiskTier | None:
    """Open the folder of blocks of a loaded model after `serve_context`; None without --kv-offload-dir.

    faults: faults to inject, for tests. publisher: of events about the blocks there.

    The first start with a model's files reads them all, to identify them. Raises OptionError if the model has recurrent
    layers, or the folder or its bound cannot be used, and StartupError if the files have changed.
    """
    if config.kv_offload_dir is None:
        return None
    model = models.target
    layout = model.cache_layout
    check_states(model.architecture, has_states=layout.has_states, has_kv=layout.block_bytes(1) > 0)
    try:
        block_bytes = max(runner.block_bytes)
        fingerprint = kv_fingerprint(compute_identity(config, models), model, config.block_size)
        make_folder = BlockFolder if faults is None else partial(FaultyFolder, faults)
        folder = make_folder(Path(config.kv_offload_dir), fingerprint, block_bytes)
        max_bytes = config.kv_offload_max_bytes or folder.default_max_bytes()
        if publisher is None:
            return DiskTier(folder, max_bytes)
        return DiskTier(folder, max_bytes, on_change=partial(_publish, publisher, runner.kv_groups))
    except ModelError as error:
        raise OptionError(f"--kv-offload-dir: {error}") from error
    except OSError as error:
        raise OptionError(f"--kv-offload-dir {config.kv_offload_dir!r} cannot be used ({error})") from error


def _publish(
    publisher: EventPublisher, groups: tuple[KVGroup, ...], stored: Collection[bytes], removed: Collection[bytes]
) -> None:
    """Publish the keys of blocks that are on disk now, and of those that are there no more."""
    events: list[KVEvent] = []
    for index, group in enumerate(groups):
        number = index if len(groups) > 1 else None
        if hashes := [block_hash(key) for key in removed if group_of_key(key) == index]:
            events.append(BlockRemoved(block_hashes=hashes, medium=DISK, group_idx=number))
        if hashes := [block_hash(key) for key in stored if group_of_key(key) == index]:
            events.append(
                BlockStored(
                    block_hashes=hashes,
                    parent_block_hash=None,
                    token_ids=[],
                    block_size=group.block_size,
                    lora_id=None,
                    medium=DISK,
                    lora_name=None,
                    group_idx=number,
                )
            )
    publisher.publish(events)


def check_states(architecture: str, *, has_states: bool, has_kv: bool) -> None:
    """Raise OptionError if a model has recurrent states, which a tier cannot keep."""
    if has_states:
        also = "also has recurrent states" if has_kv else "has recurrent states alone"
        raise OptionError(
            f"--kv-offload-dir keeps keys and values, but {architecture} {also}, which are not kept; leave it out"
        )


def reserved_bytes(config: EngineConfig, device: torch.device) -> int:
    """Return the memory to set aside for blocks that wait to be written, before the KV cache is sized."""
    return QUEUE_BYTES if config.kv_offload_dir is not None and is_host(device) else 0


def memory_warning(config: EngineConfig, device: torch.device, cache_bytes: int, free_bytes: int) -> str | None:
    """Return a warning if the KV cache and blocks on their way to and from disk do not fit into `free_bytes`."""
    moving_bytes = most_moving_bytes(cache_bytes)
    if config.kv_offload_dir is None or not is_host(device) or cache_bytes + moving_bytes <= free_bytes:
        return None
    left = format_bytes(max(0, free_bytes - cache_bytes))
    return (
        f"blocks on their way to and from disk (--kv-offload-dir) may take {format_bytes(moving_bytes)} of memory, and "
        f"beside the KV cache of {format_bytes(cache_bytes)} {left} are free; "
        "lower --kv-cache-memory-bytes, or leave --kv-offload-dir out"
    )


def describe_tier(config: EngineConfig, model: LoadedModel, tier: DiskTier | None) -> list[str]:
    """Return the start-up line about blocks on disk, or [] without them."""
    if tier is None:
        return []
    num_tokens = tier.max_bytes // model.cache_layout.unshared_block_bytes(1)
    when = "computed" if config.kv_persist else "evicted"
    bound = f"{format_bytes(tier.max_bytes)} = {num_tokens:,} tokens"
    return [
        f"Blocks on disk: {config.kv_offload_dir}, up to {bound}, written when {when}; "
        f"{counted(tier.num_blocks, 'block')} of this model there"
    ]
