"""Calibrations: finds the calibration of a model or adapter, in a given file or in the cache."""

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from engine.errors import OptionError, StartupError
from server.calibration.calibration import Identity, ModelCalibration

logger = logging.getLogger(__name__)

SUFFIX = ".json"
_MAX_BYTES = 16 << 20
_PARTS = {
    "weights": "the weights or their format",
    "adapter": "the adapter",
    "template": "the chat template",
    "wording": "the wording of questions",
}


class Calibrations:
    """Calibrations for one model and its adapters. A file in the cache is read once; a restart reads it again."""

    def __init__(self, path: str | None = None) -> None:
        """path: --calibration. Raises OptionError if the file cannot be used."""
        self._path = path
        self._given = None if path is None else _given(path)
        self._found: dict[Identity, ModelCalibration | None] = {}

    async def find(self, identity: Identity | None, folder: str | None) -> ModelCalibration | None:
        """Return the calibration that fits, the given one first. folder: of the cache. None stands for what is not
        known."""
        if identity is None:
            return None
        if self._given is not None and self._given.identity == identity:
            return self._given
        if identity not in self._found:
            self._found[identity] = (
                None if folder is None else await asyncio.to_thread(cached_calibration, identity, folder)
            )
        return self._found[identity]

    def check(self, identities: Sequence[Identity]) -> None:
        """Warn if the given file fits none of a model and its adapters, the model first. An adapter that is read
        later may still fit."""
        if self._given is None or self._given.identity in identities:
            return
        given = self._given.adapter or self._given.model
        why = "the served model answers no decisions that could be calibrated"
        if identities:
            nearest = min((self._given.identity.differences(each) for each in identities), key=len)
            why = f"{' and '.join(_PARTS[part] for part in nearest)} differ from those that are loaded"
        logger.warning(
            "--calibration %s is not used for what is loaded so far: it was made for %s, and %s", self._path, given, why
        )


def merge_calibration(calibration: ModelCalibration, folder: Path) -> tuple[Path, list[str]]:
    """Write a calibration into the cache, together with the kinds that only the one before it has; return its path and
    these kinds. Of several processes, each keeps what the others have written. Raises StartupError."""
    with _locked(folder):
        before = cached_calibration(calibration.identity, str(folder))
        kinds = {} if before is None else before.kinds
        kept = {kind: each for kind, each in kinds.items() if kind not in calibration.kinds}
        path = write_calibration(msgspec.structs.replace(calibration, kinds={**kept, **calibration.kinds}), folder)
        return path, [*kept]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder, and hold a lock on it that other processes wait for."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _not_writable(folder, error) from error


def write_calibration(calibration: ModelCalibration, folder: Path) -> Path:
    """Write a calibration into the cache, in place of an older one for the same; return its path. Raises
    StartupError."""
    path = folder / f"{calibration.identity.fingerprint}{SUFFIX}"
    partial = folder / f"{secrets.token_hex(8)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n")
            partial.rename(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from error
    return path


def _not_writable(folder: Path, error: OSError) -> StartupError:
    return StartupError(
        f"cannot write the calibration to {folder}: {error.strerror}; set HEADRACE_CACHE to a writable folder"
    )


def read_calibration(path: Path) -> ModelCalibration:
    """Read a file. Raises OSError, and ValueError if it is not a calibration."""
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > _MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes; the limit is {_MAX_BYTES:,}")
        return msgspec.json.decode(file.read(), type=ModelCalibration)  # its errors are ValueErrors


def _given(path: str) -> ModelCalibration:
    try:
        return read_calibration(Path(path).expanduser())
    except RuntimeError as error:
        raise OptionError(f"--calibration {path} cannot be read: {error}") from error
    except OSError as error:
        raise OptionError(f"--calibration {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise OptionError(
            f"--calibration {path} is not a calibration ({error}); give a file that headrace calibrate has written"
        ) from error


def cached_calibration(identity: Identity, folder: str) -> ModelCalibration | None:
    """Read a calibration from the cache; None, with a warning, if it cannot be used."""
    path = Path(folder, f"{identity.fingerprint}{SUFFIX}")
    try:
        found = read_calibration(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s is not used: %s; headrace calibrate replaces it", path, error)
        return None
    if found.identity != identity:
        logger.warning(
            "%s is not used: it was made for another model or adapter (%s); headrace calibrate replaces it",
            path,
            ", ".join(_PARTS[part] for part in found.identity.differences(identity)),
        )
        return None
    return found
