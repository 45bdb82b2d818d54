"""system_fingerprint: a short text for clients that says how an engine's answers are computed."""

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.startup.identity import compute_identity, hash_texts
from engine.startup.load import EngineModels
from models.architecture.kv_layout import KVLayout
from models.system.memory import is_host


def system_fingerprint(config: EngineConfig, models: EngineModels) -> str:
    """Return mode/version/weights/kernels/KV dtype of a loaded model after `serve_context`.

    Each part changes by itself, so that a difference of two fingerprints has a name. LoRA adapters are not included.
    The weights are known by samples, since a start should not wait until all of them are read.

    Raises StartupError if the files can no longer be read.
    """
    model = models.target
    try:
        samples = models.records.weights_samples()
    except OSError as error:
        raise StartupError(f"the files of {config.model} cannot be read again ({error}); start again") from error
    identity = compute_identity(config, models, weights=samples)
    weights = hash_texts([identity.weights, identity.storage, identity.overrides, identity.rotary, identity.dtype])
    code = hash_texts([identity.version, identity.kernels, identity.attention])
    level = model.compute.ops.level if is_host(model.device) else identity.device
    has_keys = any(isinstance(layout, KVLayout) for layout in model.cache_layout.layers)
    return "/".join(
        (
            identity.mode,
            identity.version.split()[0],
            weights[:12],
            f"{level}-{code[:6]}",
            identity.kv_dtype if has_keys else "no-kv",
        )
    )
