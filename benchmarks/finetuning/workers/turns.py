"""The protocol of a contender's process: a line on standard input requests a step, and the answer reports its cost.

Imports only the standard library, since a rival's Python may have nothing else.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable

_out = os.fdopen(os.dup(1), "w")  # output of libraries goes to the terminal instead
os.dup2(2, 1)


def wait() -> bool:
    """Wait for the next request; return whether there is one. Called first once everything is loaded."""
    return bool(sys.stdin.readline())


class Stopwatch:
    def __init__(self) -> None:
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()

    def report(self) -> None:
        """Report the time since the stopwatch was made, and the process's peak memory."""
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cpu_s, wall_s = time.process_time() - self._cpu_s, time.perf_counter() - self._wall_s
        _out.write(json.dumps({"cpu_s": cpu_s, "wall_s": wall_s, "peak_mb": peak_mb}) + "\n")
        _out.flush()


def take_turns(step: Callable[[], object]) -> None:
    while wait():
        watch = Stopwatch()
        step()
        watch.report()
