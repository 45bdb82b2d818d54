"""pull: fetches a model's files, as the server does when it starts, and verifies their hashes."""

from collections.abc import Sequence
from pathlib import Path

from rich.filesize import decimal

from engine.errors import StartupError
from models.errors import ModelError
from models.loading.open import check_config
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles, resolve_model
from models.sources.verification import StoredFile, damaged_files, hide_files, stored_files


def pull(model: str, revision: str | None, progress: ProgressReport) -> str:
    """Fetch and verify a model like `fetch_verified`, and return a one-line summary."""
    return _describe(model, fetch_verified(model, revision, progress))


def fetch_verified(model: str, revision: str | None, progress: ProgressReport) -> ModelFiles:
    """Fetch and verify a model; return its files. Damaged files are fetched again, once.

    Raises a ModelError or StartupError if the files cannot be found, fetched or verified.
    """
    files = _resolve(model, revision, progress)
    if damaged := damaged_files(files, progress):
        files = _fetch_again(damaged, model, revision, progress)
    return files


def _fetch_again(
    damaged: Sequence[StoredFile], model: str, revision: str | None, progress: ProgressReport
) -> ModelFiles:
    """Fetch damaged files again. Raises StartupError on failure, and then leaves the files as they were."""
    names = _names(damaged)
    with hide_files(damaged):
        try:
            files = _resolve(model, revision, progress)
        except (ModelError, StartupError) as error:
            raise StartupError(f"{names} of {model}: damaged on the disk, and not fetched again: {error}") from error
        if missing := [file for file in damaged if not file.path.exists()]:
            raise StartupError(
                f"{_names(missing)} of {model}: damaged on the disk, and its source cannot be reached, or has another "
                "version; try again"
            )
    if damaged := damaged_files(files, progress):
        raise StartupError(
            f"{_names(damaged)} of {model}: does not have the right content after two downloads; check the disk"
        )
    return files


def _names(files: Sequence[StoredFile]) -> str:
    return ", ".join(file.path.name for file in files)


def _resolve(model: str, revision: str | None, progress: ProgressReport) -> ModelFiles:
    return resolve_model(model, revision, progress, check=lambda files: check_config(files, {}))


def location(files: ModelFiles) -> Path:
    """Return the model's folder, or its first file."""
    return files.gguf[0] if files.root is None else files.root


def stored_bytes(files: ModelFiles) -> int:
    """Return the size of the model's files that have a known hash; 0 if it has none."""
    return sum(file.content.stat().st_size for file in stored_files(files))


def _describe(model: str, files: ModelFiles) -> str:
    if not (size := stored_bytes(files)):
        return f"{model} needs no download: {location(files)}"
    return f"{model} is complete and verified, {decimal(size)} in {location(files)}"
