"""The environment of child processes that compute: settings of torch's OpenMP library."""

import logging
import os

from engine.child_processes.lifetime import PARENT_VARIABLE

logger = logging.getLogger(__name__)

# Some 50 us. Without a limit libgomp's threads look for work for milliseconds after each of torch's parallel operators,
# on the cores that the native kernels' threads and the API process want.
_SPIN_COUNT = "1000"
# Images for other programs set these. OpenMP then binds the main thread to one core as soon as torch is imported, and
# all threads that it starts, the kernels' among them, inherit that.
BINDING = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND")


def compute_environment(*, is_logged: bool = True) -> dict[str, str]:
    """Return the environment for a child process that computes and ends with this process (`end_with_parent`).

    Variables that bind threads to cores are left out, and named in the log if `is_logged`. libgomp's spinning gets a
    limit unless the user has chosen one.

    libgomp reads its variables once, when torch is imported: so they have to be right when the process starts.
    """
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    if environment.get("OMP_PROC_BIND", "").lower() != "false":  # which switches the others off
        given = [name for name in BINDING if environment.pop(name, None) is not None]
        if given and is_logged:
            logger.warning(
                "not passed on to the process that computes, since its threads would all share one core: %s; --threads "
                "and taskset say how many threads it has and where they run",
                ", ".join(given),
            )
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = _SPIN_COUNT
    return environment
