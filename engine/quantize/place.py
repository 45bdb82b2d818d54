"""Place: the folder of --out, and where a checkpoint grows beside it until it is complete.

Imported by the command line too, which removes what a process that was killed has left: no torch here.
"""

import contextlib
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """out: absolute. partial: a name beside it that nothing else has. absent: parents that were not there before, the
    innermost first."""

    out: Path
    partial: Path
    absent: tuple[Path, ...]

    @classmethod
    def of(cls, out: str) -> "Place":
        """For --out as it was typed; a link's target is what gets replaced."""
        folder = Path(out).expanduser().resolve()
        partial = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
        return cls(folder, partial, tuple(parent for parent in folder.parents if not parent.exists()))

    @property
    def holds_anything(self) -> bool:
        return self.out.is_dir() and any(self.out.iterdir())

    def remove_partial(self) -> None:
        """And the parents that were made for it, unless something is in them by now."""
        shutil.rmtree(self.partial, ignore_errors=True)
        for folder in self.absent:
            with contextlib.suppress(OSError):
                folder.rmdir()
