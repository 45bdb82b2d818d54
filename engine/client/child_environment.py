"""The environment of a process that computes: how long idle threads of torch's operators spin."""

import os

# Some 50 us. Without a limit libgomp's threads look for work for milliseconds after each of torch's parallel operators,
# on the cores that the native kernels' threads and the API process want.
_SPIN_COUNT = "1000"


def compute_environment() -> dict[str, str]:
    """This process's environment, with a limit to libgomp's spinning unless the user has chosen one.

    libgomp reads it once, when torch is imported: so it has to be there when the process starts.
    """
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    return dict(os.environ) if chosen else {**os.environ, "GOMP_SPINCOUNT": _SPIN_COUNT}
