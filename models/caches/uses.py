"""When models were last loaded: a small file for each in the cache folder, since file systems may not note readings.

Most are mounted so that they note the first reading of a day only (relatime) or none (noatime). The file contains the
path of the model's first weight file; when it was last written is when the model was last loaded.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.system.cache_folder import cache_folder

logger = logging.getLogger(__name__)

_FOLDER = "uses"


def note_use(weight_files: Iterable[Path], cache: Path | None = None) -> None:
    """Note that the model with these files is being loaded, and forget models that are gone."""
    folder = (cache or cache_folder()) / _FOLDER
    first = min(str(path.resolve()) for path in weight_files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.blake2b(first.encode(errors="surrogateescape"), digest_size=16).hexdigest()).write_text(
            first, encoding="utf-8", errors="surrogateescape"
        )
        for note in folder.iterdir():
            if not Path(note.read_text(encoding="utf-8", errors="surrogateescape")).exists():
                note.unlink(missing_ok=True)
    except OSError as error:
        logger.info("cannot note in %s that the model is used: %s", folder, error.strerror)


def noted_uses(cache: Path) -> Mapping[str, float]:
    """Paths of weight files, and when their models were last loaded, as time.time()."""
    uses = {}
    for note in (cache / _FOLDER).glob("*"):
        with contextlib.suppress(OSError):
            uses[note.read_text(encoding="utf-8", errors="surrogateescape")] = note.stat().st_mtime
    return uses
