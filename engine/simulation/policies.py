"""Policies: how a front chooses the replica of a request."""

import importlib.util
import math
import operator
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from engine.errors import OptionError
from engine.simulation.trace import TraceRequest

_HASHED_BLOCKS = 2
_BOUND = 1.25  # of a replica's open requests, over the mean


class ReplicaView(Protocol):
    """Facts that a front knows of a replica."""

    @property
    def num_open(self) -> int:
        """Number of requests that were sent and have not ended."""

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens of requests that were sent and have no token yet, but for those expected to be cached."""

    def num_cached(self, request: TraceRequest) -> int:
        """Return the tokens of a prompt that the replica probably has, by the requests that were sent to it."""


Policy = Callable[[TraceRequest, Sequence[ReplicaView]], int]  # returns the number of a replica


def round_robin(_: random.Random) -> Policy:
    """Return a policy that gives each replica in turn a request."""
    number = -1

    def choose(request: TraceRequest, replicas: Sequence[ReplicaView]) -> int:
        nonlocal number
        del request
        number = (number + 1) % len(replicas)
        return number

    return choose


def power_of_two(source: random.Random) -> Policy:
    """Return a policy that draws two replicas, and takes the one with fewer open requests."""

    def choose(request: TraceRequest, replicas: Sequence[ReplicaView]) -> int:
        del request
        drawn = source.sample(range(len(replicas)), min(2, len(replicas)))
        return min(drawn, key=lambda number: replicas[number].num_open)

    return choose


def least_open(_: random.Random) -> Policy:
    """Return a policy that takes the replica with the fewest open requests."""

    def choose(request: TraceRequest, replicas: Sequence[ReplicaView]) -> int:
        del request
        return _emptiest(replicas)

    return choose


def prefix_hash(_: random.Random) -> Policy:
    """Return a policy that takes the replica of the first blocks' hash, or the next one whose load is within the bound.
    Requests without blocks go to the replica with the fewest open ones."""

    def choose(request: TraceRequest, replicas: Sequence[ReplicaView]) -> int:
        if not request.block_ids:
            return _emptiest(replicas)
        first, most = hash(request.block_ids[:_HASHED_BLOCKS]), _most_open(replicas)
        ring = ((first + step) % len(replicas) for step in range(len(replicas)))
        return next(number for number in ring if replicas[number].num_open < most)

    return choose


def cost(_: random.Random) -> Policy:
    """Return a policy that takes the replica with the fewest tokens to compute before the first token: the prompt's,
    but for cached ones, and the queued ones."""

    def choose(request: TraceRequest, replicas: Sequence[ReplicaView]) -> int:
        return min(
            range(len(replicas)),
            key=lambda number: (
                replicas[number].queued_tokens - replicas[number].num_cached(request),
                replicas[number].num_open,
            ),
        )

    return choose


def prefix_affinity(_: random.Random) -> Policy:
    """Return a policy that takes the replica with the longest cached prefix, of those whose load is within the
    bound."""

    def choose(request: TraceRequest, replicas: Sequence[ReplicaView]) -> int:
        most = _most_open(replicas)
        within = [number for number, each in enumerate(replicas) if each.num_open < most]
        return min(within, key=lambda number: (-replicas[number].num_cached(request), replicas[number].num_open))

    return choose


def _emptiest(replicas: Sequence[ReplicaView]) -> int:
    return min(range(len(replicas)), key=lambda number: replicas[number].num_open)


def _most_open(replicas: Sequence[ReplicaView]) -> int:
    """Return the bound of a replica's open requests, with the one that comes; at least one replica is below it."""
    return math.ceil(_BOUND * (sum(each.num_open for each in replicas) + 1) / len(replicas))


POLICIES: dict[str, Callable[[random.Random], Policy]] = {
    each.__name__: each for each in (round_robin, power_of_two, least_open, prefix_hash, cost, prefix_affinity)
}


def make_policy(name: str, seed: int) -> Policy:
    """Return a new policy. name: of the table, or of a Python file that defines `choose(request, replicas)`. Raises
    OptionError for an unknown name, and for a file without that function."""
    if name in POLICIES:
        return POLICIES[name](random.Random(seed))
    if name.endswith(".py"):
        return _from_file(name)
    raise OptionError(f"there is no policy {name!r}; choose one of {', '.join(POLICIES)}, or a file ending in .py")


def _from_file(path: str) -> Policy:
    spec = importlib.util.spec_from_file_location("headrace_policy", Path(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the boundary to a user's file
        raise OptionError(f"--policy is {path}, which cannot be run: {error!r}") from error
    own = getattr(module, "choose", None)
    if not callable(own):
        raise OptionError(f"--policy is {path}, which defines no function choose(request, replicas); add one")

    def choose(request: TraceRequest, replicas: Sequence[ReplicaView]) -> int:
        try:
            number = own(request, replicas)
        except (Exception, SystemExit) as error:  # the boundary to a user's function
            raise OptionError(f"choose() of {path} failed: {error!r}") from error
        if not hasattr(number, "__index__") or not 0 <= number < len(replicas):
            most = len(replicas) - 1
            numbers = f"a whole number from 0 to {most}" if most else "0, the number of the only replica"
            raise OptionError(f"choose() of {path} returned {number!r}; it must be {numbers}")
        return operator.index(number)

    return choose
