"""Reasons of a job's processes to end: their line on stderr, and whether a later try may succeed."""

import errno

REASON = "headrace: "  # prefix of the line on stderr with the reason
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def is_full_disk(error: Exception) -> bool:
    """Return whether an error came from a full disk, so that the same work may succeed later."""
    return isinstance(error, OSError) and error.errno in _FULL_DISK
