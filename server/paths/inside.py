"""inside: the real place of a path that must be below a folder."""

from pathlib import Path


class Outside(Exception):
    """The path leads out of the folder, or is none that this process can follow."""


def inside(folder: Path, given: str) -> Path:
    """`given`, which may be relative to the folder, with all links followed. So are those of the files that it has, if
    it is a folder itself: none may lead out. Raises Outside."""
    root = folder.resolve()
    try:
        path = (root / given).resolve()
        is_below = root in path.parents
        if is_below and path.is_dir():
            is_below = all(root in each.resolve().parents for each in path.iterdir())
    except (OSError, ValueError, RuntimeError) as error:  # no permission, too long; a NUL; a link to itself
        raise Outside from error
    if not is_below:
        raise Outside
    return path
