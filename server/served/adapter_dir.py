"""The folder --adapter-dir: resolve_inside keeps paths of adapters within it, adapters_in lists what it holds."""

from pathlib import Path

_CONFIG_FILE = "adapter_config.json"  # PEFT's


class OutsideFolder(Exception):
    """The path leads out of the folder, or cannot be resolved."""


def resolve_inside(folder: Path, given: str) -> Path:
    """Resolve `given`, which may be relative to the folder, to a real path. Raises OutsideFolder if the path, or a link
    directly within it, leads out of the folder."""
    root = folder.resolve()
    try:
        path = (root / given).resolve()
        is_below = root in path.parents
        if is_below and path.is_dir():
            is_below = all(root in each.resolve().parents for each in path.iterdir())
    except (OSError, ValueError, RuntimeError) as error:  # no permission, too long; a NUL; a link to itself
        raise OutsideFolder from error
    if not is_below:
        raise OutsideFolder
    return path


def adapters_in(folder: Path) -> list[str]:
    """Return the names of the folders directly in `folder` that hold an adapter, sorted; none if it cannot be read."""
    try:
        return sorted(each.name for each in folder.iterdir() if (each / _CONFIG_FILE).is_file())
    except OSError:
        return []
