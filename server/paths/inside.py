"""inside: the real place of a path that must be below a folder."""

from pathlib import Path


class Outside(Exception):
    """The path leads out of the folder."""


def inside(folder: Path, given: str) -> Path:
    """`given`, which may be relative to the folder, with all links followed. So are those of the files that it has, if
    it is a folder itself: none may lead out. Raises Outside."""
    root = folder.resolve()
    path = (root / given).resolve()
    if root not in path.parents:
        raise Outside
    if path.is_dir() and any(root not in each.resolve().parents for each in path.iterdir()):
        raise Outside
    return path
