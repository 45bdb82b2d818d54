"""IdleGate: processes are stopped with the first request, and go on when there has been none for a while."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.jobs.idle_gate import IdleGate

pytestmark = pytest.mark.fast


class _Child:
    def __init__(self) -> None:
        self.is_stopped = False

    async def wait(self) -> int:
        raise AssertionError

    async def output(self) -> bytes:
        raise AssertionError

    def suspend(self) -> None:
        self.is_stopped = True

    def resume(self) -> None:
        self.is_stopped = False

    def kill(self) -> None:
        raise AssertionError

    def processor_use(self) -> None:
        raise AssertionError

    def raise_priority(self) -> None:
        raise AssertionError

    async def end(self) -> None:
        raise AssertionError


class _Server:
    """With a gate on a clock of its own."""

    def __init__(self, *, is_active: bool = True) -> None:
        self.now_s = 100.0
        self.is_busy = False
        self.stopped_s = 0.0
        self.gate = IdleGate(
            lambda: self.is_busy, is_active=is_active, count_suspended=self._count, now=lambda: self.now_s
        )

    def _count(self, seconds: float) -> None:
        self.stopped_s += seconds

    def idle(self, seconds: float) -> None:
        self.now_s += seconds
        self.gate.look()


def test_it_opens_only_after_the_server_was_idle_for_a_while() -> None:
    server = _Server()
    assert not server.gate.is_open
    server.idle(0.4)
    assert not server.gate.is_open
    server.idle(0.2)
    assert server.gate.is_open


def test_a_request_stops_processes_at_once_and_its_end_lets_them_go_on_later() -> None:
    server, child = _Server(), _Child()
    server.idle(1)
    with server.gate.admitted(child):
        server.gate.note_request()
        assert child.is_stopped
        server.is_busy = True
        server.idle(10)
        assert child.is_stopped
        server.is_busy = False
        server.idle(0.25)
        assert child.is_stopped
        server.idle(0.5)
        assert not child.is_stopped
    assert server.stopped_s == pytest.approx(10.75)


def test_a_process_that_is_admitted_meanwhile_is_stopped_at_once() -> None:
    server, child = _Server(), _Child()
    with server.gate.admitted(child):
        assert child.is_stopped


def test_it_never_closes_where_processes_are_not_to_be_stopped() -> None:
    server, child = _Server(is_active=False), _Child()
    with server.gate.admitted(child):
        server.gate.note_request()
        server.is_busy = True
        server.idle(1)
        assert not child.is_stopped
    assert server.stopped_s == 0


async def test_whoever_starts_a_process_waits_until_it_opens() -> None:
    server = _Server()
    waiting = asyncio.create_task(server.gate.wait_until_open())
    await asyncio.sleep(0)
    assert not waiting.done()
    server.idle(1)
    await waiting


async def test_at_the_end_of_its_watch_nothing_stays_stopped() -> None:
    server, child = _Server(), _Child()
    with server.gate.admitted(child):
        watching = asyncio.create_task(server.gate.watch())
        await asyncio.sleep(0)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert not child.is_stopped


@given(st.lists(st.sampled_from(["request", "busy", "free", "admit", "leave", "short", "long"]), max_size=40))
def test_processes_are_stopped_exactly_while_it_is_closed(actions: list[str]) -> None:
    server = _Server()
    inside: list[tuple[_Child, object]] = []
    for action in actions:
        match action:
            case "request":
                server.gate.note_request()
                assert not server.gate.is_open
            case "busy" | "free":
                server.is_busy = action == "busy"
                server.gate.look()
                assert not (server.is_busy and server.gate.is_open)
            case "admit":
                child = _Child()
                admitted = server.gate.admitted(child)
                admitted.__enter__()
                inside.append((child, admitted))
            case "leave" if inside:
                inside.pop()[1].__exit__(None, None, None)  # type: ignore[attr-defined]
            case "short" | "long":
                server.idle(0.1 if action == "short" else 1.0)
        assert all(child.is_stopped is not server.gate.is_open for child, _ in inside)
    server.is_busy = False
    server.idle(1)
    assert server.gate.is_open
