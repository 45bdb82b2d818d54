"""How a process of a job says why it ends."""

import errno

REASON = "headrace: "  # what the line on stderr with the reason begins with
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def is_full_disk(error: Exception) -> bool:
    """Whether the same work may be possible later."""
    return isinstance(error, OSError) and error.errno in _FULL_DISK
