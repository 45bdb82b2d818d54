"""`python -m engine.simulation.planning JOB`: prints a plan in JSON. JOB is a ServedPlanJob.

A server runs this beside itself, since simulations take seconds of a core, at the lowest priority.
"""

import os
import sys
from collections.abc import Sequence

import msgspec

from engine.child_processes.lifetime import end_with_parent
from engine.errors import OptionError
from engine.simulation.planning.job import ServedPlanJob
from engine.simulation.planning.plan import make_plan
from engine.simulation.planning.search import Servers

_LOWEST = 19  # priority, as `nice` counts


def main(argv: Sequence[str]) -> int:
    end_with_parent()
    os.nice(_LOWEST)
    return print_plan(argv[0])


def print_plan(text: str) -> int:
    """Print the plan of a job in JSON, or the reason why there is none; return the exit code."""
    job = msgspec.json.decode(text, type=ServedPlanJob)
    servers = Servers(job.model, job.engine, replicas=1)
    try:
        plan = make_plan(servers, job.requests, job.kind, job.amount, job.slo, has_changes=job.has_changes)
    except OptionError as error:
        sys.stdout.write(str(error))
        return 2
    sys.stdout.write(msgspec.json.encode(plan).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
