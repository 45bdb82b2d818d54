"""How a contender's process takes turns: a line on its standard input is a step, and its answer is what that took.

Imports nothing but the standard library: a rival's Python may have nothing else of ours.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable

_out = os.fdopen(os.dup(1), "w")  # whatever libraries print goes to the terminal instead
os.dup2(2, 1)


def wait() -> bool:
    """Whether there is another step to make. Called first when all is loaded."""
    return bool(sys.stdin.readline())


class Stopwatch:
    def __init__(self) -> None:
        self._cpu_s, self._wall_s = time.process_time(), time.perf_counter()

    def tell(self) -> None:
        """What was taken since this was made; and the most memory that the process has had."""
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cpu_s, wall_s = time.process_time() - self._cpu_s, time.perf_counter() - self._wall_s
        _out.write(json.dumps({"cpu_s": cpu_s, "wall_s": wall_s, "peak_mb": peak_mb}) + "\n")
        _out.flush()


def take_turns(step: Callable[[], object]) -> None:
    while wait():
        watch = Stopwatch()
        step()
        watch.tell()
