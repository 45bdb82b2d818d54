"""ensure_home: a home folder for a user that the system knows only by its number, as in many containers."""

import os


def ensure_home() -> None:
    """Set HOME to / where there is neither the variable nor an entry for the user, as container engines do.

    Without it Path.expanduser fails, and libraries make a folder named "~" where the program was started.
    """
    if "HOME" in os.environ:
        return
    try:
        import pwd

        pwd.getpwuid(os.getuid())
    except (ImportError, KeyError):
        os.environ["HOME"] = "/"
