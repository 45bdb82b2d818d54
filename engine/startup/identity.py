"""ComputeIdentity: all that decides the numbers of an engine, for blocks on disk and for clients."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

import torch

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.quality.report import overrides_of
from engine.startup.load import EngineModels, weight_options
from models.architecture.kv_layout import KVLayout, kv_dtype_name
from models.decoder import Decoder
from models.loaded_model import LoadedModel
from models.system.memory import is_host
from models.weight_cache.entry import code_digest

_KV_FORMAT = 1  # changes with the order of a block's bytes in a file
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class ComputeIdentity:
    """Texts that differ wherever two engines may compute different numbers for the same tokens and adapters.

    Numbers of threads and batches are not among them. Each field can be compared by itself, to find what differs.
    """

    version: str  # of headrace, with a hash of the code that loads and computes
    weights: str  # hash of the contents of the model's files
    storage: str  # how weights are stored: the options of quantization
    overrides: str  # of config.json
    rotary: str  # hash of the rotary frequencies, some of which depend on the served context, and of centers of keys
    kernels: str
    attention: str
    device: str
    dtype: str
    kv_dtype: str
    mode: str  # "deterministic" or "default", in which keys and values may be rounded with AMX

    def digest(self) -> str:
        return hash_texts(getattr(self, field.name) for field in dataclasses.fields(self))


def compute_identity(config: EngineConfig, models: EngineModels, *, weights: str | None = None) -> ComputeIdentity:
    """Describe a loaded model after `serve_context`.

    weights: digest of the model's files; by default all of their bytes are hashed, which are read for it once.

    Raises StartupError if they cannot be read, or are no longer the files that were loaded.
    """
    model = models.target
    if weights is None:
        weights = models.records.weights_hash()
    if not weights:
        raise StartupError(
            f"the files of {config.model} cannot be identified, since they cannot be read again or have changed since "
            "they were loaded; start again when they are complete"
        )
    if (seed := config.dummy_weights_seed) is not None:
        weights = f"dummy {seed} {weights}"
    storage = weight_options(
        config.quantization, includes_head=config.quantize_head, group_size=config.quantization_group_size
    )
    return ComputeIdentity(
        version=f"{version('headrace')} {code_digest().hex()}{_foreign_version(model)}",
        weights=weights,
        storage=str(dataclasses.asdict(storage)),
        overrides=json.dumps(overrides_of(config), sort_keys=True),
        rotary=_rotary_hash(model),
        kernels=f"{model.compute.ops.version} torch {torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
        attention=model.compute.backend.name,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
        kv_dtype=kv_dtype_name(model.compute.kv_dtype),
        mode="deterministic" if config.deterministic else "default",
    )


def kv_fingerprint(identity: ComputeIdentity, model: LoadedModel, block_size: int) -> str:
    """Return a hash of everything that the keys of KV blocks do not cover: the model's identity and the blocks' layout.

    block_size: --block-size.
    """
    layout = model.cache_layout
    return hash_texts([identity.digest(), str(_KV_FORMAT), repr(layout), repr(layout.block_sizes(block_size))])


def system_fingerprint(config: EngineConfig, models: EngineModels) -> str:
    """Return mode/version/weights/kernels/KV dtype of a loaded model after `serve_context`.

    Each part changes by itself, so that a difference of two fingerprints has a name. The weights' part begins with
    "dummy-" if they are random. LoRA adapters are not included.
    The weights are known by samples, since a start should not wait until all of them are read.

    Raises StartupError if the files can no longer be read.
    """
    model = models.target
    try:
        samples = models.records.weights_samples()
    except OSError as error:
        raise StartupError(f"the files of {config.model} cannot be read again ({error}); start again") from error
    identity = compute_identity(config, models, weights=samples)
    source = "" if config.dummy_weights_seed is None else "dummy-"
    weights = hash_texts([identity.weights, identity.storage, identity.overrides, identity.rotary, identity.dtype])
    code = hash_texts([identity.version, identity.kernels, identity.attention])
    level = model.compute.ops.level if is_host(model.device) else identity.device
    has_keys = any(isinstance(layout, KVLayout) for layout in model.cache_layout.layers)
    return "/".join(
        (
            identity.mode,
            identity.version.split()[0],
            source + weights[:12],
            f"{level}-{code[:6]}",
            identity.kv_dtype if has_keys else "no-kv",
        )
    )


def hash_texts(texts: Iterable[str]) -> str:
    """Return a hash of a list of texts, which differs if they are divided differently."""
    return hashlib.blake2b(json.dumps(list(texts)).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _foreign_version(model: LoadedModel) -> str:
    """Return the version of transformers if its code computes the model."""
    return f" transformers {version('transformers')}" if model.family is None else ""


def _rotary_hash(model: LoadedModel) -> str:
    """Return a hash of the frequencies, and of the centers of keys in 4 bits; "" for transformers' code, which has no
    centers, and whose frequencies do not depend on the context."""
    if not isinstance(model.decoder, Decoder):
        return ""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for numbers in (*model.decoder.rotary.frequencies, *model.decoder.rotated_centers):
        digest.update(numbers.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
