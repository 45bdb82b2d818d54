"""StorageConfig: options of files and batches; a part of ServerConfig."""

from dataclasses import dataclass

from engine.config import option


@dataclass(frozen=True, slots=True)
class StorageConfig:
    max_file_bytes: int = option(
        512 * 2**20, "Largest file that may be uploaded.", group="Storage", type="bytes", metavar="SIZE", minimum=1
    )
    files_max_bytes: int = option(
        16 * 2**30,
        "Maximum size of all files together; beyond it uploads get 507.",
        group="Storage",
        type="bytes",
        metavar="SIZE",
        minimum=0,
    )
    max_files: int = option(10_000, "Maximum number of files; beyond it uploads get 507.", group="Storage", minimum=0)
    batch_max_age: float = option(
        30 * 86400.0,
        "Time to keep a finished batch, and files of batches that set no expiry.",
        group="Storage",
        type="duration",
        metavar="TIME",
        minimum=1,
    )
    max_batch_requests: int = option(50_000, "Maximum requests in one batch.", group="Storage", minimum=1)
