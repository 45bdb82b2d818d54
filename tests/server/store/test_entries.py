"""Entries: against a model in plain Python, under every order of calls."""

import asyncio
from dataclasses import dataclass, field, replace
from sqlite3 import Connection
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from server.store.database import memory_database
from server.store.entries import _OVERHEAD_BYTES, Entries, Entry

pytestmark = pytest.mark.fast

MAX_AGE_S = 50
ROOM = 6 * _OVERHEAD_BYTES

IDS = st.sampled_from("abcd")
OWNERS = st.sampled_from(["ann", "ben"])


@dataclass
class Stored:
    """What the model knows of one entry."""

    entry: Entry
    used_s: float
    items: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class EntriesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.loop = asyncio.new_event_loop()
        self.database = memory_database()
        self.entries = Entries(self.database, max_bytes=ROOM, max_age_s=MAX_AGE_S, clock=lambda: self.now)
        self.model: dict[str, Stored] = {}

    def run(self, work: Any) -> Any:
        self.now += 1
        return self.loop.run_until_complete(work)

    def size(self, stored: Stored) -> int:
        bodies = [stored.entry.body, *(item for _, item in stored.items)]
        return sum(len(str(body).replace(" ", "").replace("'", '"')) + _OVERHEAD_BYTES for body in bodies)

    def evict(self) -> None:
        self.model = {k: v for k, v in self.model.items() if v.used_s >= self.now - MAX_AGE_S}
        while sum(map(self.size, self.model.values())) > ROOM:
            del self.model[min(self.model, key=lambda key: self.model[key].used_s)]

    def find(self, entry_id: str, owner: str) -> Stored | None:
        stored = self.model.get(entry_id)
        if stored is None or stored.entry.owner != owner or stored.used_s < self.now - MAX_AGE_S:
            return None
        return stored

    @rule(entry_id=IDS, owner=OWNERS, length=st.sampled_from([0, 600, 9000]), items=st.integers(0, 3))
    def put(self, entry_id: str, owner: str, length: int, items: int) -> None:
        entry = Entry(entry_id, "t", owner, 1, "new", {"t": "x" * length})
        parts = [("in", {"id": f"{entry_id}{i}"}) for i in range(items)]
        stored = Stored(entry, self.now + 1, parts)
        fits = self.size(stored) <= ROOM
        assert self.run(self.entries.put(entry, parts)) is fits
        self.model.pop(entry_id, None)
        if fits:
            self.model[entry_id] = stored
            self.evict()

    @rule(entry_id=IDS, owner=OWNERS)
    def get(self, entry_id: str, owner: str) -> None:
        got = self.run(self.entries.get("t", entry_id, owner))
        stored = self.find(entry_id, owner)
        assert got == (stored and stored.entry)
        if stored is not None:
            assert self.run(self.entries.items(entry_id)) == [item for _, item in stored.items]
            assert self.run(self.entries.items(entry_id, "more")) == [i for part, i in stored.items if part == "more"]

    @rule(entry_id=IDS, owner=OWNERS)
    def update(self, entry_id: str, owner: str) -> None:
        def change(entry: Entry) -> Entry:
            return replace(entry, body={"t": "y"}, state="old")

        got = self.run(self.entries.update("t", entry_id, owner, change))
        stored = self.find(entry_id, owner)
        assert got == (stored and change(stored.entry))
        if stored is not None:
            stored.entry, stored.used_s = change(stored.entry), self.now

    @rule(entry_id=IDS, owner=OWNERS)
    def delete(self, entry_id: str, owner: str) -> None:
        got = self.run(self.entries.delete("t", entry_id, owner))
        assert got is (self.find(entry_id, owner) is not None)
        if got:
            del self.model[entry_id]

    @rule(entry_id=IDS, count=st.integers(0, 2))
    def append(self, entry_id: str, count: int) -> None:
        stored = self.model.get(entry_id)
        first = 100 + len(stored.items) if stored else 0
        items = [{"id": f"{entry_id}{first + i}"} for i in range(count)]
        assert self.run(self.entries.append_items(entry_id, "more", items)) is (stored is not None)
        if stored is not None:
            stored.items += [("more", item) for item in items]
            stored.used_s = self.now
            self.evict()

    @rule(entry_id=IDS, place=st.integers(0, 3))
    def delete_item(self, entry_id: str, place: int) -> None:
        stored = self.model.get(entry_id)
        if stored is None or place >= len(stored.items):
            assert not self.run(self.entries.delete_item(entry_id, "none"))
            return
        _, item = stored.items.pop(place)
        assert self.run(self.entries.delete_item(entry_id, item["id"]))
        assert self.run(self.entries.find_item(item["id"], stored.entry.owner)) is None

    @rule(seconds=st.sampled_from([10, MAX_AGE_S]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def sizes_are_right(self) -> None:
        self.run(self.entries.check())

    def teardown(self) -> None:
        self.database.close()
        self.loop.close()


TestEntries = EntriesMachine.TestCase
TestEntries.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


async def test_a_chain_is_read_from_its_first_entry_and_counts_as_used() -> None:
    now = [0.0]
    entries = Entries(memory_database(), max_bytes=2**20, max_age_s=10, clock=lambda: now[0])
    for i, before in enumerate([None, "r0", "r1"]):
        await entries.put(Entry(f"r{i}", "t", "", 1, "", {"before": before}))
    now[0] = 9
    chain, missing = await entries.chain("t", "r2", "", "before")
    assert ([entry.id for entry in chain], missing) == (["r0", "r1", "r2"], None)
    now[0] = 15
    assert (await entries.chain("t", "r2", "", "before"))[1] is None
    await entries.delete("t", "r0", "")
    assert (await entries.chain("t", "r2", "", "before"))[1] == "r0"
    assert (await entries.chain("t", "r2", "other", "before"))[1] == "r2"


async def test_states_find_entries_of_all_owners() -> None:
    entries = Entries(memory_database(), max_bytes=2**20, max_age_s=10, clock=lambda: 0.0)
    for owner, state in [("ann", "queued"), ("ben", "done"), ("ben", "running")]:
        await entries.put(Entry(f"{owner} {state}", "t", owner, 1, state, {}))
    found = await entries.with_states("t", ["queued", "running"])
    assert {entry.id for entry in found} == {"ann queued", "ben running"}


async def test_what_is_too_old_is_not_shown_and_goes_with_the_next_start() -> None:
    now = [0.0]
    database = memory_database()
    entries = Entries(database, max_bytes=2**20, max_age_s=10, clock=lambda: now[0])
    await entries.put(Entry("a", "t", "", 1, "", {}))
    now[0] = 11
    assert await entries.get("t", "a", "") is None

    def count(connection: Connection) -> int:
        return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])

    assert await database.run(count) == 1
    await entries.expire()
    assert await database.run(count) == 0
