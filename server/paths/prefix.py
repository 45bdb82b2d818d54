"""route_path: a request's path without the prefix of --root-path."""

from collections.abc import MutableMapping
from typing import Any


def route_path(scope: MutableMapping[str, Any]) -> str:
    """The path of an ASGI scope as the router sees it, by Starlette's rule."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and is_below(path, root) else path


def is_below(path: str, prefix: str) -> bool:
    """Whether a path is the prefix, or stands in it as in a folder."""
    return path == prefix or path.startswith(prefix + "/")
