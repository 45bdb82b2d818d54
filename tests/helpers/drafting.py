"""Speculation over the ledger: a proposer that knows the right tokens and proposes them with a given frequency."""

import sys
from collections.abc import Iterable

from engine.draft_model.model import DraftModel, NextTokens
from engine.engine import Engine
from engine.local import LocalClient
from engine.protocol import EngineRequest, RequestOutput
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import StepPlan, StepResult
from engine.scheduling.sequence import Sequence
from engine.speculation.candidates import Option
from engine.speculation.lengths import Choice
from engine.speculation.proposers import Source
from engine.speculation.speculator import Load, Speculator
from tests.helpers.engines import make_engine
from tests.helpers.ledger import VOCAB_SIZE, LedgerRunner, next_token


class Oracle:
    """A Lookup whose tokens are right with a given quality, decided by the tokens before them: reproducible."""

    source = Source.NGRAM

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
    """A fault ends the test: an engine goes on without drafts, and its outputs would still be right."""

    def take_fault(self) -> None:
        error = sys.exception()
        assert error is not None
        raise error


class AlwaysFull(Unforgiving):
    """Drafts all that is proposed, whatever it costs: for tests of exactness, which must not depend on a clock."""

    def _knows_plain(self, load: Load) -> bool:  # noqa: ARG002
        return True

    def _choose(self, options: list[Option], load: Load) -> Choice:
        lengths, budget = [], load.num_spare
        for option in options:
            lengths.append(max(0, min(budget, len(option.token_ids))))
            budget -= lengths[-1]
        return Choice(lengths, None)

    def _is_worthwhile(self, option: Option, speedup: float, load: Load) -> bool:  # noqa: ARG002
        return True

    def _longest_pause_s(self, load: Load, num_lagging: int) -> float | None:  # noqa: ARG002
        return None


class Unsure(AlwaysFull):
    """Continues a draft model's draft while it is more likely to be accepted than not."""

    def _least_reach(self, choice: Choice, load: Load, num_drafting: int) -> float:  # noqa: ARG002
        return 0.5


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


def texts(engine: Engine, requests: Iterable[EngineRequest]) -> tuple[dict[str, list[int]], LocalClient]:
    client = LocalClient(engine)
    return {id: output.new_ids for id, output in client.generate(requests).items()}, client


class PricedDraftModel(DraftModel):
    """A DraftModel with made-up times: what a pass takes, and a token of the context."""

    pass_s = 0.005
    token_s = 0.001

    def catch_up(self, chunks: list[tuple[Sequence, int]]) -> float:
        super().catch_up(chunks)
        return self.token_s * sum(num_new for _, num_new in chunks)

    def draft(self, lengths: list[tuple[Sequence, int]], *, least_reach: float) -> tuple[list[list[int]], float | None]:
        return super().draft(lengths, least_reach=least_reach)[0], self.pass_s


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
            ledger.execute_unshared(plan)
        drafting = [item.sequence for item in plan.items if item.needs_logits]
        token_ids = [self._oracle.next_after(s.tokens + s.draft, s.seed) for s in drafting]
        return NextTokens(list(token_ids), [None] * len(drafting), [self.confidence] * len(drafting))

    def can_read(self, token_ids: list[int]) -> bool:
        return max(token_ids) < VOCAB_SIZE

    def release(self, sequence: Sequence) -> None:
        for ledger in self._ledgers:
            ledger.release(sequence)
