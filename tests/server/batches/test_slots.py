"""LineSlots are shared out evenly, none is lost, and none stays free."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.batches.slots import LineSlots

pytestmark = pytest.mark.fast

BATCHES = ("a", "b", "c")
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["take", "give", "cancel", "limit"]), st.sampled_from(BATCHES), st.integers(1, 4)),
    max_size=40,
)


@given(ACTIONS)
def test_whatever_happens_the_invariants_hold(actions: list[tuple[str, str, int]]) -> None:
    asyncio.run(_act(actions))


async def _act(actions: list[tuple[str, str, int]]) -> None:
    places = LineSlots(2)
    tasks: dict[str, list[asyncio.Task[None]]] = {name: [] for name in BATCHES}
    for action, name, limit in actions:
        match action:
            case "take":
                tasks[name].append(asyncio.create_task(places.acquire(name)))
            case "give":
                held = [each for each in tasks[name] if each.done()]
                if held:
                    tasks[name].remove(held[0])
                    places.release(name)
            case "cancel":
                waiting = [each for each in tasks[name] if not each.done()]
                if waiting:
                    tasks[name].remove(waiting[0])
                    waiting[0].cancel()
            case "limit":
                places.change_limit(limit)
        for _ in range(3):
            await asyncio.sleep(0)
        places.check()
        assert places.num_taken == sum(each.done() for part in tasks.values() for each in part)
    for part in tasks.values():
        for task in part:
            task.cancel()
    await asyncio.gather(*(each for part in tasks.values() for each in part), return_exceptions=True)


async def test_whoever_has_the_fewest_is_next() -> None:
    places = LineSlots(4)
    for _ in range(4):
        await places.acquire("a")
    order: list[str] = []

    async def take(name: str) -> None:
        await places.acquire(name)
        order.append(name)

    tasks = [asyncio.create_task(take(name)) for name in ("a", "a", "b", "c", "b")]
    for _ in range(4):
        await asyncio.sleep(0)
        places.release("a")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == ["b", "c", "a", "a"]  # when each has one, the a that waits longest, and so again
    tasks[4].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
