"""Fuzzing: mutated bodies for all routes of an application with a fake engine, and mutated inputs for all readers.

    python -m tests.fuzz --requests 10000 --seconds 20

What is found is written to tests/corpus, whose inputs the ordinary tests read again. Each reader has the seconds for
itself; what it takes must end soon and with the error that it documents.
"""

import argparse
import faulthandler
import hashlib
import random
import resource
import sys
import time
from pathlib import Path

from tests.fuzz.bodies import Bodies
from tests.fuzz.corpus import CORPUS, fault_of
from tests.fuzz.files import TARGETS

_MAX_STUCK_S = 60.0  # then the program ends, with a traceback
_MAX_GROWTH_MIB = 512  # of all readers together, with the libraries that they load
_MAX_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["bodies", *TARGETS], action="append")
    arguments = parser.parse_args()
    chosen = arguments.only or ["bodies", *TARGETS]
    num_wrong = 0
    if "bodies" in chosen:
        num_wrong += _fuzz_bodies(arguments.requests, arguments.seed)
    before_mib = _peak_mib()
    for name in TARGETS:
        if name in chosen:
            num_wrong += _fuzz_reader(name, arguments.seconds, arguments.seed)
    grown_mib = _peak_mib() - before_mib
    print(f"the readers took at most {grown_mib} MiB; {num_wrong} inputs are wrong")  # noqa: T201
    return 1 if num_wrong or grown_mib > _MAX_GROWTH_MIB else 0


def _fuzz_bodies(num_requests: int, seed: int) -> int:
    bodies = Bodies()
    wrong = bodies.run(num_requests, seed)
    print(f"bodies: {num_requests}, {dict(sorted(bodies.statuses.items()))}", flush=True)  # noqa: T201
    for path, body, fault in wrong[:_MAX_SHOWN]:
        print(f"  {path}: {fault}: {_keep('bodies', path.encode() + bytes([10]) + body)}")  # noqa: T201
    return len(wrong)


def _fuzz_reader(name: str, seconds: float, seed: int) -> int:
    rng = random.Random(seed)
    num_inputs, wrong = 0, 0
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        data = TARGETS[name].draw(rng)
        num_inputs += 1
        faulthandler.dump_traceback_later(_MAX_STUCK_S, exit=True)
        fault = fault_of(name, data)
        if fault is not None:
            wrong += 1
            if wrong <= _MAX_SHOWN:
                print(f"  {name}: {fault}: {_keep(name, data)}", flush=True)  # noqa: T201
    faulthandler.cancel_dump_traceback_later()
    print(f"{name}: {num_inputs} inputs, {wrong} wrong", flush=True)  # noqa: T201
    return wrong


def _keep(name: str, data: bytes) -> Path:
    path = CORPUS / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
