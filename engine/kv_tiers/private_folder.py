"""private_folder and check_private: folders with clients' prompts, which no other user may write to."""

import errno
import os
import stat
from pathlib import Path

from engine.errors import OptionError

WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH  # bits of a file's mode


def private_folder(folder: Path) -> Path:
    """Create a folder for blocks if it is missing, and return its absolute path.

    Raises OptionError if it cannot be used, or is of another user, or others may write to it: they could plant blocks.
    """
    folder = folder.expanduser().resolve()
    try:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    except OSError as error:
        raise OptionError(
            f"--kv-offload-dir {str(folder)!r} cannot be used ({error.strerror}); give a folder that you can write to"
        ) from error
    if status.st_uid != os.geteuid():
        raise OptionError(
            f"--kv-offload-dir {str(folder)!r} belongs to another user (id {status.st_uid}), who could read and change "
            "what clients wrote; give a folder of the user that runs the server"
        )
    if status.st_mode & WRITTEN_BY_OTHERS:
        raise OptionError(
            f"--kv-offload-dir {str(folder)!r} can be written by other users (mode {status.st_mode & 0o777:o}), who "
            "could change what is computed; run chmod 700 on it, or give another folder"
        )
    return folder


def check_private(folder: Path) -> None:
    """Raise OSError if a folder is missing, is a link, or can be written by other users now."""
    status = folder.lstat()
    is_own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not is_own or status.st_mode & WRITTEN_BY_OTHERS:
        raise OSError(errno.EPERM, "other users may write to it", str(folder))
