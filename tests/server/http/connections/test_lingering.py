"""A lingering close: the client reads all that was written, and no client keeps a connection beyond the limits."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.http.connections import late_bytes
from server.http.connections.lingering import LingeringTransport
from tests.helpers.virtual_loop import VirtualLoop

pytestmark = pytest.mark.fast

MAX_BYTES = 100


class Below(asyncio.Transport):
    """Notes what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.written: list[object] = []
        self.is_gone = False  # the client is, so that nothing more can be said to it

    def write(self, data: object) -> None:
        assert not self.calls, "nothing is written behind the end"
        self.written.append(data)

    def write_eof(self) -> None:
        if self.is_gone:
            raise OSError
        self.calls.append("eof")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def resume_reading(self) -> None:
        assert not self.is_closing()


class Lingering:
    def __init__(self, loop: asyncio.AbstractEventLoop, is_sending: Callable[[], bool] = lambda: True) -> None:
        self.below = Below()
        self.num_limits = 0
        self.transport = LingeringTransport(self.below, loop, is_sending, self._on_limit)

    def _on_limit(self) -> None:
        self.num_limits += 1


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_bytes, "_MAX_BYTES", MAX_BYTES)


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def _pass(loop: VirtualLoop, seconds: float) -> None:
    loop.run_until_complete(asyncio.sleep(seconds))


def test_a_connection_whose_client_sends_nothing_is_closed_at_once(loop: VirtualLoop) -> None:
    lingering = Lingering(loop, lambda: False)
    lingering.transport.write(b"answer")
    lingering.transport.close()
    lingering.transport.close()
    assert (lingering.below.written, lingering.below.calls) == ([b"answer"], ["close"])


def test_a_client_that_falls_silent_is_closed_and_not_cut_off(loop: VirtualLoop) -> None:
    lingering = Lingering(loop)
    lingering.transport.close()
    assert lingering.transport.is_closing()
    assert lingering.below.calls == ["eof"]
    for _ in range(3):
        _pass(loop, 4.9)
        lingering.transport.drop(1)
    assert lingering.below.calls == ["eof"]
    _pass(loop, 5.1)
    assert lingering.below.calls == ["eof", "close"]
    assert lingering.num_limits == 0


def test_a_client_that_sends_too_much_or_too_long_is_cut_off(loop: VirtualLoop) -> None:
    for size, wait_s in ((MAX_BYTES + 1, 0.0), (1, 3.0)):
        lingering = Lingering(loop)
        lingering.transport.close()
        for _ in range(11):
            lingering.transport.drop(size)
            _pass(loop, wait_s)
        assert lingering.below.calls == ["eof", "abort"]
        assert lingering.num_limits == 1


def test_a_connection_too_many_has_its_own_time(loop: VirtualLoop) -> None:
    lingering = Lingering(loop)
    lingering.transport.total_s = 2.0
    lingering.transport.close()
    _pass(loop, 1.9)
    assert not lingering.below.is_closing()
    _pass(loop, 0.2)
    assert lingering.below.is_closing()


def test_a_client_that_is_gone_is_not_waited_for(loop: VirtualLoop) -> None:
    lingering = Lingering(loop)
    lingering.below.is_gone = True
    lingering.transport.close()
    assert lingering.below.calls == ["abort"]


_STEPS = st.one_of(
    st.tuples(st.just("drop"), st.integers(1, 60)),
    st.tuples(st.just("pass"), st.floats(0, 8)),
    st.tuples(st.sampled_from(["close", "linger", "end", "write"]), st.none()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_STEPS, max_size=30), st.booleans())
def test_it_ends_once_and_within_its_limits(steps: list[tuple[str, float | None]], is_sending: bool) -> None:
    loop = VirtualLoop()
    lingering = Lingering(loop, lambda: is_sending)
    began_s: float | None = None
    dropped = 0.0
    for step, value in steps:
        if lingering.below.is_closing():
            break
        match step, value:
            case "drop", size if began_s is not None:
                dropped += size or 0
                lingering.transport.drop(int(size or 0))
            case "pass", seconds:
                _pass(loop, seconds or 0.0)
            case "write", _:
                lingering.transport.write(b"x")
            case "close" | "linger" | "end", _:
                getattr(lingering.transport, step)()
                if began_s is None:
                    began_s = loop.time()
        if began_s is not None and not lingering.below.is_closing():
            assert lingering.transport.is_closing()
            assert loop.time() - began_s <= 30
            assert dropped <= MAX_BYTES
    if began_s is not None:
        _pass(loop, 31)
        assert lingering.below.calls in (["close"], ["eof", "close"], ["eof", "abort"])
    loop.close()
