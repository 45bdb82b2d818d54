"""Runs: whatever the cuts, the limits and the readers' pace, nobody gets an event twice, out of order, or never."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import EventsDropped, StreamNotFound, StreamStopped
from server.metrics.values import Metrics
from server.protocols.frame import OPENAI_STREAM
from server.runs.event_log import event_size
from server.runs.registry import _RUN_BYTES, Runs, new_stream_id
from server.runs.run import Run, RunOptions
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.loop_clock import LoopClock

pytestmark = pytest.mark.fast

END = OPENAI_STREAM.end
PLENTY = 2**30
GRACE_S = 1000.0


@dataclass
class Source:
    """What feeds a run: events on demand, and whether it was closed."""

    events: list[bytes]
    error: Exception | None = None
    is_endless: bool = False
    is_closed: bool = False
    given: int = 0
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    def __post_init__(self) -> None:
        self.stack.callback(self._close)

    def _close(self) -> None:
        self.is_closed = True

    async def stream(self) -> AsyncIterator[bytes]:
        for event in self.events:
            await asyncio.sleep(0)
            self.given += 1
            yield event
        if self.error is not None:
            raise self.error
        if self.is_endless:
            await asyncio.Event().wait()


def _broken(error: Exception) -> bytes:
    return repr(error).encode()


def _start(runs: Runs, source: Source, *, waits: bool = True, is_pinned: bool = False, owner: str = "") -> Run:
    options = RunOptions(new_stream_id(), owner, "/v1/completions", OPENAI_STREAM, _broken, _broken, waits, {})
    return runs.start(options, source.stream(), source.stack, is_pinned=is_pinned)


def _runs(max_bytes: int = PLENTY, grace_s: float = GRACE_S) -> Runs:
    return Runs(max_bytes, grace_s, Metrics("m"))


async def _read(run: Run, after: int = 0, batches: int | None = None, pause: int = 0) -> list[bytes]:
    """The events of the next `batches`, or all, with `pause` rounds of the loop between them."""
    got: list[bytes] = []
    with run.reader(after) as reader:
        async for events in reader:
            got += events
            for _ in range(pause):
                await asyncio.sleep(0)
            if batches is not None and (batches := batches - 1) <= 0:
                break
    return got


async def _go_round() -> None:
    """Let the event loop do all that is due."""
    for _ in range(5):
        await asyncio.sleep(0)


def _events(count: int) -> list[bytes]:
    return [b"event %d" % i for i in range(count)]


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(0, 30),
    cuts=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 10)), max_size=8),
    room=st.sampled_from([0, 1, 3, 10, PLENTY]),
    others=st.integers(0, 2),
)
def test_reconnects_add_up_to_the_uninterrupted_stream(
    count: int, cuts: list[tuple[int, int, int]], room: int, others: int
) -> None:
    """cuts: batches read before each, the reader's pause between them, and rounds of the loop until it is back."""

    async def scenario() -> None:
        source = Source(_events(count))
        size = event_size(b"event 10")
        runs = _runs(_RUN_BYTES + room * size)
        run = _start(runs, source)
        companions = [asyncio.create_task(_read(run, pause=i)) for i in range(others)]
        got: list[bytes] = []
        for batches, pause, away in [*cuts, (PLENTY, 0, 0)]:
            for _ in range(away):
                await asyncio.sleep(0)
                runs.check()
            # With companions, events may be dropped that they have and that this reader has not; it is told so.
            try:
                got += await _read(run, len(got), batches, pause)
            except EventsDropped:
                assert others
                assert run.log.num_dropped > len(got)
                break
            runs.check()
            assert runs.used_bytes <= _RUN_BYTES + max(room, 1) * max(size, event_size(END))
        else:
            assert got == [*source.events, END]
        for companion in companions:
            with contextlib.suppress(EventsDropped):  # one that began when events were dropped already
                assert await companion == [*source.events, END]
        await run.wait_until_ended()
        assert source.is_closed

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_S))


async def test_a_run_without_readers_is_stopped_after_the_grace_time_and_not_before() -> None:
    clock, runs = LoopClock(), _runs(grace_s=GRACE_S)
    source = Source(_events(2), is_endless=True)
    run = _start(runs, source)
    await _read(run, batches=1)
    await _go_round()
    assert not source.is_closed
    with run.reader(0):
        clock.put_ahead(GRACE_S + 1)
        await _go_round()
        assert runs.get(run.id, "") is run
    clock.put_ahead(GRACE_S - 1)
    await _go_round()
    assert runs.get(run.id, "") is run
    clock.put_ahead(2)
    await asyncio.wait_for(run.wait_until_ended(), DEADLINE_S)
    assert source.is_closed
    with pytest.raises(StreamNotFound):
        runs.get(run.id, "")
    assert runs.used_bytes == 0


@pytest.mark.parametrize("is_told_first", [True, False])
async def test_a_shorter_grace_holds_until_a_reader_comes_back(is_told_first: bool) -> None:
    """is_told_first: before its reader has gone."""
    clock, runs = LoopClock(), _runs(grace_s=GRACE_S)
    run = _start(runs, Source(_events(2), is_endless=True))

    async def leave() -> None:
        with run.reader(0):
            if is_told_first:
                runs.shorten_grace(run, 10.0)
        if not is_told_first:
            runs.shorten_grace(run, 10.0)
        runs.check()

    await leave()
    clock.put_ahead(9)
    await _go_round()
    await _read(run, batches=1)  # a reader that comes and goes without a word
    clock.put_ahead(GRACE_S - 1)
    await _go_round()
    assert runs.get(run.id, "") is run
    runs.shorten_grace(run, 10.0)  # the grace time ends sooner
    clock.put_ahead(2)
    await asyncio.wait_for(run.wait_until_ended(), DEADLINE_S)
    other = _start(runs, Source(_events(2), is_endless=True))
    runs.shorten_grace(other, 2 * GRACE_S)  # no longer than the grace time
    runs.shorten_grace(other, 10.0)
    clock.put_ahead(11)
    await asyncio.wait_for(other.wait_until_ended(), DEADLINE_S)


async def test_a_reader_that_came_back_before_the_grace_was_shortened_has_the_whole_again() -> None:
    clock, runs = LoopClock(), _runs(grace_s=GRACE_S)
    run = _start(runs, Source(_events(2), is_endless=True))
    with run.reader(0):
        runs.shorten_grace(run, 10.0)
        clock.put_ahead(11)
        await _go_round()
    clock.put_ahead(GRACE_S - 1)
    await _go_round()
    assert runs.get(run.id, "") is run
    await runs.delete(run)


async def test_an_ended_run_is_held_for_the_grace_time() -> None:
    clock, runs = LoopClock(), _runs(grace_s=GRACE_S)
    run = _start(runs, Source(_events(2)))
    await run.wait_until_ended()
    assert await _read(runs.get(run.id, "")) == [*_events(2), END]
    assert await _read(runs.get(run.id, "")) == [*_events(2), END]
    clock.put_ahead(GRACE_S + 1)
    await _go_round()
    with pytest.raises(StreamNotFound):
        runs.get(run.id, "")


async def test_a_pinned_run_goes_on_without_readers() -> None:
    runs = _runs(grace_s=0.0)
    source = Source(_events(3))
    run = _start(runs, source, is_pinned=True)
    await run.wait_until_ended()
    assert source.given == 3


async def test_a_pinned_run_with_a_full_log_drops_its_beginning() -> None:
    runs = _runs(_RUN_BYTES + 3 * event_size(END))
    source = Source(_events(50))
    run = _start(runs, source, waits=False, is_pinned=True)
    await run.wait_until_ended()
    assert source.given == 50
    with pytest.raises(EventsDropped, match="1 to 4"):
        await _read(run)
    assert await _read(run, 50) == [END]


async def test_a_pinned_run_with_a_full_log_does_not_wait_for_a_reader_either() -> None:
    runs = _runs(_RUN_BYTES + 3 * event_size(END))
    source = Source(_events(50))
    run = _start(runs, source, waits=False, is_pinned=True)
    with run.reader(0) as slow:
        batches = aiter(slow)
        await anext(batches)
        await asyncio.wait_for(run.wait_until_ended(), DEADLINE_S)
        with pytest.raises(EventsDropped):
            await anext(batches)
    assert source.given == 50


async def test_a_run_with_a_full_log_waits_for_its_reader() -> None:
    runs = _runs(_RUN_BYTES + 3 * event_size(b"event 1"))
    source = Source(_events(50))
    run = _start(runs, source)
    for _ in range(200):
        await asyncio.sleep(0)
    assert source.given == 4  # three are held, one is waiting to be
    assert await _read(run) == [*_events(50), END]


async def test_ended_runs_make_room_the_longest_idle_first() -> None:
    size = 2 * _RUN_BYTES + 20 * event_size(END)
    runs = _runs(size)
    first, second = [_start(runs, Source(_events(2))) for _ in range(2)]
    await first.wait_until_ended()
    await second.wait_until_ended()
    await _read(first)  # which makes the second the longest idle
    third = _start(runs, Source(_events(2)))
    with pytest.raises(StreamNotFound):
        runs.get(second.id, "")
    assert await _read(runs.get(first.id, "")) == [*_events(2), END]
    assert await _read(third) == [*_events(2), END]


async def test_runs_with_readers_do_not_make_room() -> None:
    runs = _runs(1)
    run = _start(runs, Source([]))
    await run.wait_until_ended()
    with run.reader(0):
        _start(runs, Source(_events(2)))
        assert runs.get(run.id, "") is run
        runs.check()


async def test_an_error_midway_is_an_event_and_one_before_is_raised() -> None:
    runs = _runs()
    run = _start(runs, Source(_events(1), error=ValueError("x")))
    assert await _read(run) == [b"event 0", b"ValueError('x')", END]
    failed = _start(runs, Source([], error=ValueError("y")))
    for _ in range(2):
        with pytest.raises(ValueError, match="y"):
            await _read(failed)


async def test_deleting_stops_the_run_and_tells_its_readers() -> None:
    runs = _runs()
    source = Source(_events(1), is_endless=True)
    run = _start(runs, source)
    reading = asyncio.create_task(_read(run))
    for _ in range(5):
        await asyncio.sleep(0)
    await runs.delete(run)
    assert source.is_closed
    assert await reading == [b"event 0", repr(StreamStopped("the stream was deleted")).encode()]
    assert runs.used_bytes == 0


async def test_a_run_that_is_deleted_before_its_first_step_closes_what_feeds_it() -> None:
    runs = _runs()
    source = Source(_events(1))
    await runs.delete(_start(runs, source))
    assert source.is_closed


async def test_another_owners_run_is_as_unknown() -> None:
    runs = _runs()
    run = _start(runs, Source([]), owner="ann")
    assert runs.get(run.id, "ann") is run
    with pytest.raises(StreamNotFound) as other:
        runs.get(run.id, "ben")
    with pytest.raises(StreamNotFound) as unknown:
        runs.get("stream_0", "ben")
    assert str(other.value).replace(run.id, "") == str(unknown.value).replace("stream_0", "")
