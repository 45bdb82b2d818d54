"""allow_open_files: raises the limit of open files (RLIMIT_NOFILE) to what the connections need."""

import logging
import resource

from engine.errors import StartupError

logger = logging.getLogger(__name__)

MIN_OPEN_FILES = 64  # libraries, the model's files, the engine's socket, and a few connections

_OTHER_FILES = 256  # the model's, the database's, the engine's, logs
_MIN_OTHER_FILES = 40  # with a low limit
_OWN_FILES = 28  # open before the first client
_NO_LIMIT = 1 << 30
_MOST_AT_ONCE = 8
_SURPLUS = 1.25  # including those that get 503: see server/http/connections/open_connections.py


def open_files_needed(max_connections: int) -> int:
    """Return the number of file descriptors needed for the connections and everything else."""
    return int(max_connections * _SURPLUS) + _OTHER_FILES


def room_for_connections(num_files: int) -> int:
    """Return the number of connections that fit into `num_files` descriptors, besides those refused with 503."""
    return int((num_files - _other_files(num_files)) / _SURPLUS)


def connections_at_once() -> int:
    """Return the number of connections to accept in a row before the event loop does other work.

    The number is small, since streams and probes wait meanwhile. It is at most a quarter of the spare descriptors,
    since the refused connections of a round may stay open until three more rounds are accepted.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(_MOST_AT_ONCE, max(1, (_other_files(_NO_LIMIT if soft < 0 else soft) - _OWN_FILES) // 4))


def _other_files(num_files: int) -> int:
    return min(_OTHER_FILES, max(_MIN_OTHER_FILES, num_files // 4))


def allow_open_files(max_connections: int) -> int:
    """Raise the limit of open files as far as possible, and return the number of connections that fit.

    If the limit is too low for `max_connections`, returns a lower number and logs a warning; without descriptors left,
    connections and probes would hang. Raises StartupError if the limit is too low for the server itself.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = open_files_needed(max_connections)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return max_connections
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ValueError, OSError):  # macOS has a further limit
        most = soft
    if most >= needed:
        return max_connections
    if most < MIN_OPEN_FILES:
        raise StartupError(
            f"at most {most} files may be open; the server needs {MIN_OPEN_FILES} for itself and {needed} for "
            f"{max_connections:,} connections; raise the limit (ulimit -n {needed})"
        )
    num_connections = room_for_connections(most)
    if num_connections >= max_connections:
        return max_connections
    logger.warning(
        "at most %d files may be open, too few for %d connections: more than %d get 503; raise the limit "
        "(ulimit -n %d) or lower --max-connections",
        most,
        max_connections,
        num_connections,
        needed,
    )
    return num_connections
