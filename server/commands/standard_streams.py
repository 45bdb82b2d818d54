"""open_standard_streams: something to read and write for a program that was started without, as some supervisors do."""

import contextlib
import os
import sys

_STREAMS = ("stdin", "stdout", "stderr")


def open_standard_streams() -> None:
    """Open /dev/null in the place of each of the three that is closed.

    Otherwise the next files and sockets would get their numbers, and what is meant for a log would be written to them.
    """
    for descriptor, name in enumerate(_STREAMS):
        try:
            os.fstat(descriptor)
        except OSError:
            is_read = name == "stdin"
            opened = os.open(os.devnull, os.O_RDONLY if is_read else os.O_WRONLY)  # the lowest number that is free
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
            if getattr(sys, name) is None:
                with contextlib.suppress(OSError):
                    stream = open(descriptor, "r" if is_read else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
                    setattr(sys, name, stream)
