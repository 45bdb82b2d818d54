"""Sequences that wait for a slot of their adapter: in order, back in line, and counted while they wait."""

import pytest

from engine.protocol import ServiceClass
from engine.scheduling.adapters.waiters import AdapterWaiters, WaitingGroup
from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.fairness.fair_queue import FairQueue
from engine.scheduling.sequence import Sequence
from tests.helpers.engines import make_adapter, make_request

pytestmark = pytest.mark.fast


class Line:
    """A queue, and who waits in it; each sequence comes a second after the one before."""

    def __init__(self) -> None:
        self.queue = FairQueue()
        self.now_s = 0.0
        self.waiters = AdapterWaiters(self.queue, lambda: self.now_s)
        self.all: list[Sequence] = []

    def add(self, name: str, service_class: ServiceClass = ServiceClass.INTERACTIVE) -> Sequence:
        number = len(self.all)
        request = make_request(f"{name}{number}", [1], service_class=service_class, adapter=make_adapter(name))
        sequence = Sequence(request=request, seed=0, tokens=[1], num_prompt=1, account=TenantAccount("a"))
        sequence.order = (sequence.service.rank, 0, 0.0, number, 0)
        self.queue.add(sequence)
        self.waiters.join(sequence)
        self.all.append(sequence)
        self.now_s += 1
        return sequence

    def set_aside(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self.waiters.set_aside(sequence)
            self.now_s += 1
        self.waiters.check(self.all)

    @property
    def in_line(self) -> list[str]:
        return [each.id for each in self.queue.in_turn({})]


def test_groups_come_by_service_class_and_then_by_how_long_they_have_waited() -> None:
    line = Line()
    batch = line.add("x", ServiceClass.BATCH)
    first, second, third = line.add("y"), line.add("x"), line.add("y")
    line.set_aside(batch, second, third, first)
    groups = line.waiters.groups()
    assert groups == [WaitingGroup.of(second), WaitingGroup.of(first), WaitingGroup.of(batch)]
    assert line.waiters.members(groups[1]) == [third, first]
    assert line.waiters.members_with(make_adapter("x").digest) == [second, batch]
    assert line.in_line == []


def test_who_is_put_back_stands_in_line_again() -> None:
    line = Line()
    first, second = line.add("x"), line.add("x")
    line.set_aside(first, second)
    line.waiters.put_back(first)
    assert line.in_line == ["x0"]
    assert first.is_ready
    assert line.waiters.members(WaitingGroup.of(second)) == [second]
    line.waiters.check(line.all)


def test_an_adapter_is_wanted_by_those_in_line_and_by_those_set_aside() -> None:
    line = Line()
    digest = make_adapter("x").digest
    sequence = line.add("x")
    rank = sequence.service.rank
    assert line.waiters.is_wanted(digest, rank + 1)
    assert not line.waiters.is_wanted(digest, rank)
    line.set_aside(sequence)
    assert line.waiters.is_wanted(digest, rank + 1)
    assert line.waiters.names == ["x"]
    line.waiters.leave(sequence)
    assert not line.waiters.is_wanted(digest, rank + 1)
    assert line.waiters.names == []
    assert line.waiters.groups() == []
