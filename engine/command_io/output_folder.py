"""OutputFolder: the folder of --out, and the one next to it in which a checkpoint is written until it is complete.

The command line uses it too, to remove the files that a killed process has left. No torch here.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.errors import OptionError


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """The folders of a checkpoint. path: the final folder. partial: the folder that is written until it is complete,
    named by a unique token."""

    path: Path
    partial: Path

    @classmethod
    def of(cls, out: str, token: str) -> "OutputFolder":
        """Return the folders for a value of --out. If `out` is a link, its target is used. Raises OptionError if the
        link cannot be resolved."""
        try:
            folder = Path(out).expanduser().resolve()
            folder.exists()
        except (OSError, RuntimeError) as error:  # RuntimeError: no such user's home
            raise OptionError(f"--out {out}: {error}; name another folder") from error
        return cls(folder, folder.parent / f".{folder.name[:40]}.{token}")

    @property
    def has_content(self) -> bool:
        return self.path.is_dir() and any(self.path.iterdir())

    def remove_partial(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
