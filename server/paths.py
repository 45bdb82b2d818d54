"""Request paths: paths that monitoring polls, and removal of the prefix of --root-path."""

from collections.abc import MutableMapping
from typing import Any

# Kubernetes and load balancers poll these without a key. They report the server's state, and nothing about requests.
# They have no parameters, so path and route are the same.
PROBES = frozenset({"/live", "/ready", "/health"})
# Polled every few seconds, so they get neither log lines nor traces.
MONITORING = PROBES | {"/metrics"}


def route_path(scope: MutableMapping[str, Any]) -> str:
    """Return the path of an ASGI scope without the prefix of --root-path, by Starlette's rule."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and is_below(path, root) else path


def is_below(path: str, prefix: str) -> bool:
    """Whether a path is the prefix or begins with it and a slash."""
    return path == prefix or path.startswith(prefix + "/")
