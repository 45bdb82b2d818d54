"""StorageConfig: options of files and batches; a part of ServerConfig."""

from dataclasses import dataclass
from functools import partial

from engine.config import option

_storage = partial(option, group="Storage")


@dataclass(frozen=True, slots=True)
class StorageConfig:
    max_file_bytes: int = _storage(512 * 2**20, "Largest file that may be uploaded.", type="bytes", minimum=1)
    files_max_bytes: int = _storage(
        16 * 2**30, "Maximum size of all files together; beyond it uploads get 507.", type="bytes", minimum=0
    )
    max_files: int = _storage(10_000, "Maximum number of files; beyond it uploads get 507.", minimum=0)
    batch_max_age: float = _storage(
        30 * 86400.0,
        "Time to keep a finished batch, and files of batches that set no expiry.",
        type="duration",
        minimum=1,
    )
    max_batch_requests: int = _storage(50_000, "Maximum requests in one batch.", minimum=1)
