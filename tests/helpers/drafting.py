"""Speculation over the ledger: a proposer that knows the right tokens, and proposes them at a given rate."""

import sys
from collections.abc import Iterable
from typing import Any

from engine.draft_model.model import DraftModel, NextTokens
from engine.engine import Engine
from engine.protocol import EngineRequest, RequestOutput
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import StepPlan, StepResult
from engine.scheduling.sequence import Sequence
from engine.speculation.catch_up import CatchUp
from engine.speculation.lengths import DraftPlan
from engine.speculation.planner import DraftPlanner, StepLoad
from engine.speculation.proposers import DraftCandidate, DraftSource
from engine.speculation.speculator import Speculator
from tests.helpers.engines import make_engine
from tests.helpers.ledger import VOCAB_SIZE, LedgerRunner, next_token
from tests.helpers.local_client import LocalClient


class Oracle:
    """A LookupProposer whose tokens are right with a given quality, decided by the tokens before them: reproducible."""

    source = DraftSource.NGRAM

    def __init__(self, quality: float) -> None:
        """quality: 1 is always right, 0 always wrong."""
        self._threshold = int(quality * 1000)
        self.released: list[str] = []

    def begin_step(self) -> None:
        pass

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


class Unforgiving(Speculator):
    """A fault ends the test: an engine would continue without drafts, with the right outputs."""

    def record_fault(self) -> None:
        error = sys.exception()
        assert error is not None
        raise error


class _FullPlanner(DraftPlanner):
    """Plans all that is proposed."""

    def knows_plain(self, load: StepLoad) -> bool:  # noqa: ARG002
        return True

    def plan(self, candidates: list[DraftCandidate], load: StepLoad) -> DraftPlan:
        lengths, budget = [], load.num_spare
        for candidate in candidates:
            lengths.append(max(0, min(budget, len(candidate.token_ids))))
            budget -= lengths[-1]
        return DraftPlan(lengths, None)


class _UnsurePlanner(_FullPlanner):
    def min_path_prob(self, plan: DraftPlan, load: StepLoad, num_drafting: int) -> float:  # noqa: ARG002
        return 0.5


class _EagerCatchUp(CatchUp):
    """Computes every context at once."""

    def _is_worthwhile(self, candidate: DraftCandidate, speedup: float, load: StepLoad) -> bool:  # noqa: ARG002
        return True

    def _max_pause_s(self, load: StepLoad, num_behind: int) -> float | None:  # noqa: ARG002
        return None


class AlwaysFull(Unforgiving):
    """Drafts all that is proposed, whatever it costs: for tests of exactness, which must not depend on a clock."""

    planner_type: type[DraftPlanner] = _FullPlanner

    def __init__(self, max_tokens: int, **options: Any) -> None:
        """options: as a Speculator takes them."""
        super().__init__(max_tokens, **options)
        self._planner = self.planner_type(self._acceptance, self._costs)
        self._catch_up = _EagerCatchUp(self._drafter, self._planner, self._faults)


class Unsure(AlwaysFull):
    """Continues a draft model's draft while it is more likely to be accepted than not."""

    planner_type = _UnsurePlanner


class Timed(Unforgiving):
    """Learns from made-up times instead of the clock's: a step takes 30 ms and `row_ms` for each of its rows."""

    row_ms = 1.0

    def observe(
        self,
        plan: StepPlan,
        result: StepResult,
        outputs: list[RequestOutput],
        step_s: float,  # noqa: ARG002
    ) -> list[RequestOutput]:
        return super().observe(plan, result, outputs, self.seconds(plan.num_tokens))

    def seconds(self, num_rows: int) -> float:
        return 0.030 + self.row_ms / 1000 * num_rows


def speculating_engine(speculator: Speculator, **options: object) -> tuple[Engine, LedgerRunner]:
    return make_engine(speculator=speculator, **options)  # type: ignore[arg-type]


def generate(engine: Engine, requests: Iterable[EngineRequest]) -> tuple[dict[str, list[int]], LocalClient]:
    client = LocalClient(engine)
    return {id: output.new_ids for id, output in client.generate(requests).items()}, client


class PricedDraftModel(DraftModel):
    """A DraftModel with made-up times: what a pass takes, and a token of the context."""

    pass_s = 0.005
    token_s = 0.001

    def catch_up(self, chunks: list[tuple[Sequence, int]]) -> float:
        super().catch_up(chunks)
        return self.token_s * sum(num_new for _, num_new in chunks)

    def draft(
        self, lengths: list[tuple[Sequence, int]], *, min_path_prob: float
    ) -> tuple[list[list[int]], float | None]:
        return super().draft(lengths, min_path_prob=min_path_prob)[0], self.pass_s


class LedgerDraftRunner:
    """A DraftRunner over ledgers of its own, which check every slot that the draft reads, and an oracle's tokens."""

    def __init__(
        self, num_blocks: int, block_size: int, quality: float, windows: tuple[int | None, ...] = (None,)
    ) -> None:
        """windows: of each group of the draft's layers, as KVGroup takes them."""
        self._ledgers = [LedgerRunner(num_blocks, (KVGroup(block_size, window),)) for window in windows]
        self._oracle = Oracle(quality)
        self.num_tables = len(windows)
        self.confidence = 1.0
        self.num_passes = 0
        self.num_rows = 0

    def next_tokens(self, plan: StepPlan) -> NextTokens:
        self.num_passes += 1
        self.num_rows += plan.num_tokens
        for ledger in self._ledgers:
            ledger.write_unshared(plan)
        drafting = [item.sequence for item in plan.items if item.needs_logits]
        token_ids = [self._oracle.next_after(s.tokens + s.draft, s.seed) for s in drafting]
        return NextTokens(list(token_ids), [None] * len(drafting), [self.confidence] * len(drafting))

    def has_embeddings(self, token_ids: list[int]) -> bool:
        return max(token_ids) < VOCAB_SIZE

    def release(self, sequence: Sequence) -> None:
        for ledger in self._ledgers:
            ledger.release(sequence)
