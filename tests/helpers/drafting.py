"""Speculation over the ledger: a proposer that knows the right tokens and tells the truth as often as it is told to."""

from collections.abc import Iterable

from engine.engine import Engine
from engine.kv.groups import KVGroup
from engine.local import LocalClient
from engine.plan import StepPlan, StepResult
from engine.protocol import EngineRequest
from engine.sequence import Sequence
from engine.spec.base import Source
from engine.spec.draft_model import NextTokens
from engine.spec.speculator import Speculator
from tests.helpers.engines import make_engine
from tests.helpers.ledger import VOCAB_SIZE, LedgerRunner, next_token


class Oracle:
    """A Lookup whose tokens are right with a given quality, decided by the text before them: reproducible."""

    source = Source.NGRAM

    def __init__(self, quality: float) -> None:
        """quality: 1 is always right, 0 always wrong."""
        self._threshold = int(quality * 1000)
        self.released: list[str] = []

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        draft: list[int] = []
        for _ in range(num_tokens):
            draft.append(self.next_after(sequence.tokens + draft, sequence.seed))
        return draft

    def next_after(self, history: list[int], seed: int) -> int:
        right = next_token(history, seed)
        noise = next_token(history, seed + 77) * 1000 // VOCAB_SIZE
        return right if noise < self._threshold else (right + 1) % VOCAB_SIZE

    def release(self, sequence: Sequence) -> None:
        self.released.append(sequence.id)


class AlwaysFull(Speculator):
    """Drafts all that is proposed, whatever it costs: for tests of exactness, which must not depend on a clock."""

    def _knows_plain(self, running, num_pending):  # type: ignore[no-untyped-def]  # noqa: ARG002
        return True

    def _choose(self, proposals, running, max_num_batched_tokens):  # type: ignore[no-untyped-def]
        choice = super()._choose(proposals, running, max_num_batched_tokens)
        budget = max_num_batched_tokens - sum(sequence.num_pending for sequence in running)
        for index, (_, proposal) in enumerate(proposals):
            choice.lengths[index] = max(0, min(budget, len(proposal.token_ids)))
            budget -= choice.lengths[index]
        return choice


class Timed(Speculator):
    """Learns from made-up times instead of the clock's: a step takes 30 ms and `row_ms` for each of its rows."""

    row_ms = 1.0

    def observe(self, plan: StepPlan, result: StepResult, step_s: float) -> None:  # noqa: ARG002
        super().observe(plan, result, 0.030 + self.row_ms / 1000 * plan.num_tokens)


def speculating_engine(speculator: Speculator, **options: object) -> tuple[Engine, LedgerRunner]:
    return make_engine(speculator=speculator, **options)  # type: ignore[arg-type]


def texts(engine: Engine, requests: Iterable[EngineRequest]) -> tuple[dict[str, list[int]], LocalClient]:
    client = LocalClient(engine)
    return {id: output.new_ids for id, output in client.generate(requests).items()}, client


class LedgerDraftRunner:
    """A DraftRunner over a ledger of its own, which checks every slot that the draft reads, and an oracle's tokens."""

    def __init__(self, num_blocks: int, block_size: int, quality: float) -> None:
        self.ledger = LedgerRunner(num_blocks, (KVGroup(block_size),))
        self._oracle = Oracle(quality)
        self.num_passes = 0

    def next_tokens(self, plan: StepPlan) -> NextTokens:
        self.num_passes += 1
        self.ledger.execute_unshared(plan)
        drafting = [item.sequence for item in plan.items if item.needs_logits]
        token_ids = [self._oracle.next_after(s.tokens + s.draft, s.seed) for s in drafting]
        return NextTokens(list(token_ids), [None] * len(drafting))

    def can_read(self, token_ids: list[int]) -> bool:
        return max(token_ids) < VOCAB_SIZE

    def release(self, sequence: Sequence) -> None:
        self.ledger.release(sequence)
