"""out_folder: where a job's adapter, its checkpoints and the trainer's files are."""

from pathlib import Path

_ROOT = "fine-tuning"


def root_folder(data_dir: str) -> Path:
    """With a folder for each job, by its id. It may not exist yet."""
    return Path(data_dir).resolve() / _ROOT


def out_folder(data_dir: str, job_id: str) -> Path:
    """For the adapter; beside it are `checkpoints/` and, in `job/`, the JobFolder. Never stored: --data-dir may be
    moved."""
    return root_folder(data_dir) / job_id


def checkpoint_folder(data_dir: str, job_id: str, step: int) -> Path:
    """With the adapter after a step that ended an epoch."""
    return out_folder(data_dir, job_id) / "checkpoints" / f"step-{step}"


def stored_path(data_dir: str, path: str) -> str:
    """As it may be stored: relative to --data-dir if it is within that."""
    root, absolute = Path(data_dir).resolve(), Path(path).resolve()
    return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else str(absolute)


def found_path(data_dir: str, stored: str) -> str:
    """Where that is now. The counterpart of `stored_path`."""
    return str(Path(data_dir).resolve() / stored)


def job_ids(data_dir: str) -> set[str]:
    """Of jobs that have a folder."""
    root = root_folder(data_dir)
    return {path.name for path in root.iterdir()} if root.exists() else set()
