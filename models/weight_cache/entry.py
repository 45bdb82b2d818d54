"""CachedWeights: a model's entry in the weight cache, by a hash of everything that determines packed weights."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models.checkpoints.quantized.registry import LEGACY_CONFIG_FILES
from models.checkpoints.safetensors import INDEX_NAME
from models.decoder import Decoder
from models.kernels.cpu.library import required_library
from models.linear.storage import WeightOptions
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles
from models.weight_cache.cache import WeightCache
from models.weight_cache.index import WeightFileError
from models.weight_cache.packed_weights import collect_weights, restore_weights

logger = logging.getLogger(__name__)

_CODE = Path(__file__).parents[1]  # all of models


@dataclass(frozen=True, slots=True)
class CachedWeights:
    """A model's entry in the weight cache. state: result of `files_state` before the files were opened, for the key."""

    cache: WeightCache
    key: str
    files: ModelFiles
    state: str

    def restore(self, decoder: Decoder, progress: ProgressReport) -> int:
        """Map the cached weights into a decoder with allocated memory. Return their bytes; 0 if they are not cached."""
        file = self.cache.find(self.key, progress)
        if file is None:
            return 0
        try:
            restore_weights(decoder, file)
        except WeightFileError as error:
            logger.warning("%s is not used: %s", self.cache.path(self.key), error)
            return 0
        return file.num_bytes

    def save(self, decoder: Decoder, progress: ProgressReport) -> None:
        """Save a loaded decoder's weights for the next start."""
        weights = collect_weights(decoder)
        if files_state(self.files) != self.state:
            logger.info("packed weights are not cached: the files of %s changed while loading", self.files.origin)
        elif weights is not None:
            tensors, records = weights
            sources = [str(path.resolve()) for path in self.files.weight_files]
            extra = {"records": records, "model": self.files.origin, "sources": sources}
            self.cache.save(self.key, tensors, extra, progress)


def cached_weights(
    cache: WeightCache, files: ModelFiles, state: str, weights: WeightOptions, overrides: Mapping[str, Any]
) -> CachedWeights:
    """Return the cache entry of a model on native kernels. state: `files_state` before the files were opened."""
    digest = hashlib.blake2b(state.encode(), digest_size=20)
    if weights.quantize_to is None:  # the other options have no effect then; a draft of the same file shares the entry
        weights = WeightOptions(keeps_quantized=weights.keeps_quantized)
    options = {name: str(value) for name, value in dataclasses.asdict(weights).items()}
    kernels = required_library().path.stem  # a hash of their source, compiler and level
    digest.update(repr((options, json.dumps(dict(overrides), sort_keys=True), kernels)).encode())
    digest.update(code_digest())
    return CachedWeights(cache, digest.hexdigest(), files, state)


def files_state(files: ModelFiles) -> str | None:
    """Return a text that changes whenever a file that determines the weights changes; None if a file is missing.

    The text has paths, sizes, inodes and times. Programs cannot set the time of change, and hashing a file would take
    longer than loading it.
    """
    described = []
    paths = sorted(files.weight_files)
    if (root := files.root) is not None:
        paths += [root / name for name in (*LEGACY_CONFIG_FILES, INDEX_NAME) if (root / name).exists()]
    try:
        for path in paths:
            status = path.stat()
            described.append(
                (str(path.resolve()), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            )
    except OSError:
        return None
    return repr(described)


@functools.cache
def code_digest() -> bytes:
    """Return a hash of all code that reads and packs weights."""
    digest = hashlib.blake2b(digest_size=20)
    for path in sorted(_CODE.rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(repr([version(name) for name in ("headrace", "torch", "gguf", "safetensors", "numpy")]).encode())
    return digest.digest()
