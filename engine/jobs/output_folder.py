"""Place: the folder of --out, and where a checkpoint grows beside it until it is complete.

The command line reads this too: it removes what a process that was killed has left. No torch here.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.errors import OptionError


@dataclass(frozen=True, slots=True)
class Place:
    """out: absolute. partial: beside it, named by a token that nothing else has."""

    out: Path
    partial: Path

    @classmethod
    def of(cls, out: str, token: str) -> "Place":
        """For --out as it was typed; a link's target is what gets replaced. Raises OptionError."""
        try:
            folder = Path(out).expanduser().resolve()
            folder.exists()
        except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
            raise OptionError(f"--out {out}: {error}; name another folder") from error
        return cls(folder, folder.parent / f".{folder.name[:40]}.{token}")

    @property
    def holds_anything(self) -> bool:
        return self.out.is_dir() and any(self.out.iterdir())

    def remove_partial(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
