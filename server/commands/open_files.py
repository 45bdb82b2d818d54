"""allow_open_files: room for the sockets of all connections among the files that this process may have open."""

import contextlib
import logging

from engine.errors import StartupError

try:
    import resource
except ImportError:  # a system without such limits
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LEAST_OPEN_FILES = 64  # libraries, the model's files, the engine's socket, and a few connections

_OTHER_FILES = 256  # the model's, the database's, the engine's, logs
_SURPLUS = 1.25  # connections beyond the limit that are told so: see server/http/connections.py


def open_files_needed(max_connections: int) -> int:
    """For all connections, and what else is open."""
    return int(max_connections * _SURPLUS) + _OTHER_FILES


def allow_open_files(max_connections: int) -> None:
    """Raise the limit of open files as far as the system lets us, and warn if it is too low for the connections.

    Raises StartupError if it is too low for anything.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = open_files_needed(max_connections)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < LEAST_OPEN_FILES:
        raise StartupError(
            f"at most {hard} files may be open; the server needs {LEAST_OPEN_FILES} for itself and {needed} for "
            f"{max_connections:,} connections; raise the limit (ulimit -n {needed})"
        )
    if hard != resource.RLIM_INFINITY and hard < needed:
        logger.warning(
            "at most %d files may be open, too few for %d connections; raise the limit (ulimit -n %d) or lower "
            "--max-connections",
            hard,
            max_connections,
            needed,
        )
        needed = hard
    with contextlib.suppress(ValueError, OSError):  # macOS has a further limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
