"""BlockPool against a plain model of it, under random operations."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.scheduling.kv.block_pool import BlockPool

pytestmark = pytest.mark.fast


class BlockPoolMachine(RuleBasedStateMachine):
    """Tables have blocks; the model counts references and remembers each digest's block."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[int]] = []
        self.cached: dict[bytes, int] = {}  # digest -> block, as register made it known
        self.num_digests = 0

    @initialize(num_blocks=st.integers(1, 12))
    def create(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks)

    @rule(data=st.data())
    def allocate(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(0, self.pool.num_free))
        num_blank = self.pool.num_free - self.pool.num_free_cached
        used = {block for table in self.tables for block in table}
        blocks = self.pool.allocate(count)
        assert len(set(blocks)) == count
        assert not used & set(blocks)
        evicted = {digest for digest, block in self.cached.items() if block in blocks}
        assert len(evicted) == max(0, count - num_blank), "a cached prefix was evicted while blanks were left"
        for digest in evicted:
            assert self.pool.find(digest) is None
            del self.cached[digest]
        self.tables.append(blocks)

    @precondition(lambda self: any(self.tables))
    @rule(data=st.data())
    def register(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from([t for t in self.tables if t]))
        block = data.draw(st.sampled_from(table))
        if block in self.cached.values():
            return
        known = sorted(self.cached)
        digest = data.draw(st.sampled_from(known)) if known and data.draw(st.booleans()) else self.new_digest()
        self.pool.register(block, digest)
        self.cached.setdefault(digest, block)

    def new_digest(self) -> bytes:
        self.num_digests += 1
        return self.num_digests.to_bytes(16)

    @precondition(lambda self: self.cached)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        digests = data.draw(st.lists(st.sampled_from(sorted(self.cached)), min_size=1, unique=True))
        blocks = [self.cached[digest] for digest in digests]
        self.pool.share(blocks)
        self.tables.append(blocks)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tables) - 1))
        self.pool.free(self.tables.pop(index))

    @precondition(lambda self: self.cached)
    @rule(data=st.data())
    def demote(self, data: st.DataObject) -> None:
        self.pool.demote(self.cached[data.draw(st.sampled_from(sorted(self.cached)))])

    @precondition(lambda self: any(self.tables))
    @rule(data=st.data())
    def unregister(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from([block for table in self.tables for block in table]))
        self.pool.unregister(block)
        self.cached = {digest: b for digest, b in self.cached.items() if b != block}

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check()
        used = [block for table in self.tables for block in table]
        assert self.pool.num_used == len(set(used))
        assert self.pool.num_free == self.pool.num_blocks - len(set(used))
        assert all(self.pool.references(block) == used.count(block) for block in range(self.pool.num_blocks))
        assert all(self.pool.find(digest) == block for digest, block in self.cached.items())
        assert self.pool.num_free_cached == len(set(self.cached.values()) - set(used))


TestBlockPool = BlockPoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
