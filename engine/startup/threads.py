"""The number of compute threads: the user's, or one for each physical core that the process may use."""

from engine.errors import OptionError
from models.system.cores import allowed_cpus, usable_cores


def compute_threads(requested: int | None) -> int:
    """Return the number of --threads, or of the machine's usable cores. Raises OptionError."""
    if requested is None:
        return usable_cores()
    num_cpus = len(allowed_cpus())
    if requested > num_cpus:
        raise OptionError(
            f"--threads is {requested:,}; this process can run {num_cpus:,} at once (the machine's CPUs, within its "
            f"cpuset or taskset), and more would wait for each other; lower it, or leave it out for {usable_cores():,}"
        )
    return requested
