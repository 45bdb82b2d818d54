"""Policies: how a front chooses the replica of a request."""

from collections.abc import Callable, Sequence
from typing import Protocol

from engine.errors import OptionError
from engine.simulation.trace import TraceRequest


class ReplicaView(Protocol):
    """Facts that a front knows of a replica."""

    @property
    def num_open(self) -> int:
        """Number of requests that were sent and have not ended."""


Policy = Callable[[TraceRequest, Sequence[ReplicaView]], int]  # returns the number of a replica


def round_robin(seed: int) -> Policy:
    """Return a policy that gives each replica in turn a request."""
    del seed
    number = -1

    def choose(request: TraceRequest, replicas: Sequence[ReplicaView]) -> int:
        nonlocal number
        del request
        number = (number + 1) % len(replicas)
        return number

    return choose


POLICIES: dict[str, Callable[[int], Policy]] = {"round_robin": round_robin}


def make_policy(name: str, seed: int) -> Policy:
    """Return a new policy. Raises OptionError for an unknown name."""
    if name not in POLICIES:
        raise OptionError(f"there is no policy {name!r}; choose one of {', '.join(POLICIES)}")
    return POLICIES[name](seed)
