"""Opening of the tier below the KV cache: blocks on disk, if --kv-offload-dir is given."""

from functools import partial
from pathlib import Path

from engine.child_processes.fault_plan import FaultPlan
from engine.config import EngineConfig
from engine.errors import OptionError
from engine.faults.wrappers import FaultyFolder
from engine.kv_tiers.block_folder import BlockFolder
from engine.kv_tiers.disk import DiskTier
from engine.runner.kv_budget import format_bytes
from engine.runner.runner import TorchRunner
from engine.startup.identity import compute_identity, kv_fingerprint
from engine.startup.load import EngineModels
from engine.wording import counted
from models.errors import ModelError
from models.loaded_model import LoadedModel


def open_tier(
    config: EngineConfig, models: EngineModels, runner: TorchRunner, faults: FaultPlan | None = None
) -> DiskTier | None:
    """Open the folder of blocks of a loaded model after `serve_context`; None without --kv-offload-dir.

    faults: faults to inject, for tests.

    The first start with a model's files reads them all, to identify them. Raises OptionError if the model has recurrent
    layers, or the folder or its bound cannot be used, and StartupError if the files have changed.
    """
    if config.kv_offload_dir is None:
        return None
    model = models.target
    if model.cache_layout.has_states:
        raise OptionError(
            f"--kv-offload-dir keeps keys and values, but {model.architecture} also has recurrent states, which are "
            "not kept; leave it out"
        )
    try:
        block_bytes = max(runner.block_bytes)
        fingerprint = kv_fingerprint(compute_identity(config, models), model, config.block_size)
        make_folder = BlockFolder if faults is None else partial(FaultyFolder, faults)
        folder = make_folder(Path(config.kv_offload_dir), fingerprint, block_bytes)
        return DiskTier(folder, config.kv_offload_max_bytes or folder.default_max_bytes())
    except ModelError as error:
        raise OptionError(f"--kv-offload-dir: {error}") from error
    except OSError as error:
        raise OptionError(f"--kv-offload-dir {config.kv_offload_dir!r} cannot be used ({error})") from error


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
