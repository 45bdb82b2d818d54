"""pull: a model's files on this machine, fetched as a start would fetch them, and compared with their hashes."""

from rich.filesize import decimal

from engine.errors import StartupError
from models.loading.open import check_config
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles, resolve_model
from models.sources.verification import damaged_files, remove_damaged, stored_files


def pull(model: str, revision: str | None, progress: ProgressReport) -> str:
    """Fetch and verify; returns what there is, in a line. Damaged files are fetched again, once.

    Raises a ModelError or StartupError.
    """
    files = _resolve(model, revision, progress)
    if damaged := damaged_files(files, progress):
        remove_damaged(damaged)
        files = _resolve(model, revision, progress)
        if damaged := damaged_files(files, progress):
            names = ", ".join(file.path.name for file in damaged)
            raise StartupError(f"{names} of {model} cannot be stored as it is at its source; check the disk")
    return _described(model, files)


def _resolve(model: str, revision: str | None, progress: ProgressReport) -> ModelFiles:
    return resolve_model(model, revision, progress, check=lambda files: check_config(files, {}))


def _described(model: str, files: ModelFiles) -> str:
    where = files.gguf[0] if files.root is None else files.root
    if not (stored := stored_files(files)):
        return f"{model} needs no download: {where}"
    size = decimal(sum(file.content.stat().st_size for file in stored))
    return f"{model} is complete and verified, {size} in {where}"
