"""Paths of requests: what stands behind --root-path, and which of them are asked for every few seconds, for ever."""

from collections.abc import MutableMapping
from typing import Any

# Kubernetes and load balancers ask these, without a key. They tell the state of the server, and nothing of requests.
PROBES = frozenset({"/live", "/ready", "/health"})
# Not worth a line in a log, or a trace. They have no parameters: path and route are the same.
MONITORING = PROBES | {"/metrics"}


def is_below(path: str, prefix: str) -> bool:
    """Whether a path is the prefix, or stands in it as in a folder."""
    return path == prefix or path.startswith(prefix + "/")


def route_path(scope: MutableMapping[str, Any]) -> str:
    """The path of an ASGI scope as the router sees it: without the prefix of --root-path, by Starlette's rule."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and is_below(path, root) else path
