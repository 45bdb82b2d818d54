"""BatchLane: feeders of batches wait for room, in their order, and nobody who would fit waits."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client.queue.batch_lane import BatchLane

pytestmark = pytest.mark.fast


class Feeders:
    """Lines that each take room, and give it back when they are told to."""

    def __init__(self, limit: int) -> None:
        self.lane = BatchLane(limit)
        self.have_room: list[int] = []
        self.sizes: dict[int, int] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ends: dict[int, asyncio.Event] = {}

    async def begin(self, num_requests: int) -> int:
        number = len(self.sizes)
        self.sizes[number] = num_requests
        self._ends[number] = asyncio.Event()
        self._tasks[number] = asyncio.create_task(self._feed(number))
        await self.settle()
        return number

    async def _feed(self, number: int) -> None:
        async with self.lane.room(self.sizes[number]):
            self.have_room.append(number)
            try:
                await self._ends[number].wait()
            finally:
                self.have_room.remove(number)

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await self.settle()

    async def cancel(self, number: int) -> None:
        self._tasks[number].cancel()
        await self.settle()

    @staticmethod
    async def settle() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def check(self) -> None:
        self.lane.check()
        assert self.lane.num_taken == sum(self.sizes[number] for number in self.have_room)


async def test_who_finds_no_room_has_it_when_another_ends() -> None:
    feeders = Feeders(2)
    for _ in range(4):
        await feeders.begin(1)
    assert feeders.have_room == [0, 1]
    await feeders.end(1)
    assert feeders.have_room == [0, 2]
    await feeders.cancel(0)
    assert feeders.have_room == [2, 3]


async def test_a_line_of_more_requests_than_the_limit_has_the_lane_for_itself() -> None:
    feeders = Feeders(2)
    await feeders.begin(1)
    await feeders.begin(5)
    await feeders.begin(1)
    assert feeders.have_room == [0]
    await feeders.end(0)
    assert feeders.have_room == [1]
    await feeders.end(1)
    assert feeders.have_room == [2]


async def test_without_a_limit_it_is_twice_what_the_engine_runs() -> None:
    lane = BatchLane()
    lane.open(3)
    async with lane.room(5), lane.room(1):
        waiting = asyncio.create_task(lane.room(1).__aenter__())
        await asyncio.sleep(0)
        assert not waiting.done()
        lane.open(4)
        await waiting
    assert lane.num_taken == 1


async def test_one_that_is_canceled_as_it_gets_room_gives_it_back() -> None:
    feeders = Feeders(1)
    await feeders.begin(1)
    second = await feeders.begin(1)
    third = await feeders.begin(1)
    feeders._ends[0].set()
    while not feeders.lane.num_taken or 0 in feeders.have_room:
        await asyncio.sleep(0)
    await feeders.cancel(second)
    assert feeders.have_room == [third]
    feeders.check()


@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from(["begin", "end", "cancel"]), st.integers(0, 7))))
def test_room_is_never_lost_and_nobody_waits_who_fits(limit: int, moves: list[tuple[str, int]]) -> None:
    async def play() -> None:
        feeders = Feeders(limit)
        for move, number in moves:
            if move == "begin":
                await feeders.begin(number % 4 + 1)
            elif number < len(feeders.sizes):
                await (feeders.end(number) if move == "end" else feeders.cancel(number))
            feeders.check()
        for number in feeders.sizes:
            await feeders.end(number)
        feeders.check()
        assert feeders.lane.num_taken == 0

    asyncio.run(play())


class Clients:
    """Whether the engine has requests of clients, and time that passes as it is slept."""

    def __init__(self) -> None:
        self.are_there = False
        self.slept_s = 0.0
        self.lane = BatchLane(has_clients=lambda: self.are_there, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        await asyncio.sleep(0)


async def test_no_line_is_prepared_while_clients_have_work() -> None:
    clients, prepared = Clients(), asyncio.Event()

    async def prepare() -> None:
        async with clients.lane.preparing():
            prepared.set()

    clients.are_there = True
    task = asyncio.create_task(prepare())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not prepared.is_set()
    clients.are_there = False
    await task
    assert prepared.is_set()


async def test_lines_are_prepared_one_at_a_time() -> None:
    lane, num_now, most = BatchLane(), 0, 0

    async def prepare() -> None:
        nonlocal num_now, most
        async with lane.preparing():
            num_now += 1
            most = max(most, num_now)
            await asyncio.sleep(0)
            num_now -= 1

    await asyncio.gather(*(prepare() for _ in range(9)))
    assert (most, num_now) == (1, 0)


async def test_between_two_lines_others_have_the_event_loop() -> None:
    lane, order = BatchLane(), []

    async def prepare(number: int) -> None:
        async with lane.preparing():
            order.append(f"line {number}")

    async def client() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            order.append("client")

    await asyncio.gather(*(prepare(number) for number in range(8)), client())
    assert order.index("client") < order.index("line 7")


async def test_a_line_that_is_canceled_while_it_waits_lets_the_next_one_on() -> None:
    clients = Clients()
    clients.are_there = True

    async def prepare() -> None:
        async with clients.lane.preparing():
            pass

    first, second = (asyncio.create_task(prepare()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    clients.are_there = False
    await second
    assert first.cancelled()


async def test_quiet_is_waited_for_no_longer_than_is_asked() -> None:
    clients = Clients()
    clients.are_there = True
    await clients.lane.quiet(1.0)
    assert 0.9 < clients.slept_s < 1.1
