"""Times at which models were last loaded, recorded as a small file for each model in the cache folder.

Most file systems record only the first read of a day (relatime) or none (noatime). The small file contains the path of
the model's first weight file; its time of writing is the time of loading.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.system.cache_folder import cache_folder

logger = logging.getLogger(__name__)

_FOLDER = "uses"


def record_use(weight_files: Iterable[Path], cache: Path | None = None) -> None:
    """Record that the model with these files is being loaded, and forget models whose files are gone."""
    folder = (cache or cache_folder()) / _FOLDER
    first = min(str(path.resolve()) for path in weight_files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.blake2b(first.encode(errors="surrogateescape"), digest_size=16).hexdigest()).write_text(
            first, encoding="utf-8", errors="surrogateescape"
        )
        for record in folder.iterdir():
            if not Path(record.read_text(encoding="utf-8", errors="surrogateescape")).exists():
                record.unlink(missing_ok=True)
    except OSError as error:
        logger.info("cannot record in %s that the model is used: %s", folder, error.strerror)


def recorded_uses(cache: Path) -> Mapping[str, float]:
    """Return when models were last loaded, as time.time(), by the path of their first weight file."""
    uses = {}
    for record in (cache / _FOLDER).glob("*"):
        with contextlib.suppress(OSError):
            uses[record.read_text(encoding="utf-8", errors="surrogateescape")] = record.stat().st_mtime
    return uses
