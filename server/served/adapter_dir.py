"""resolve_inside: paths of adapters below --adapter-dir."""

from pathlib import Path


class OutsideFolder(Exception):
    """The path leads out of the folder, or this process cannot follow it."""


def resolve_inside(folder: Path, given: str) -> Path:
    """Return the real path of `given`, which may be relative to the folder. Links are followed; if the path is a
    folder, so are links in it. None may lead out. Raises OutsideFolder."""
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
