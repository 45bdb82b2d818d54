"""Speculator: what is counted and learned, who drafts, and steps that equal those without speculation."""

from typing import Any

import pytest

from engine.draft_model.model import DraftModel
from engine.protocol import AbortReason, EngineRequest
from engine.scheduling.plan import StepPlan
from engine.speculation.lengths import DraftPlan
from engine.speculation.planner import DraftPlanner, StepLoad
from engine.speculation.proposers import DraftCandidate
from engine.speculation.report import SpeculationReport
from engine.speculation.speculator import Speculator
from tests.helpers.drafting import AlwaysFull, LedgerDraftRunner, Oracle, Timed, generate, speculating_engine
from tests.helpers.engines import expected_ids, make_engine, make_prompt, make_request
from tests.helpers.ledger import LedgerStep
from tests.helpers.local_client import LocalClient


def _requests(count: int = 4) -> list[EngineRequest]:
    return [make_request(f"r{i}", make_prompt(6, seed=i), max_tokens=40, ignore_eos=True) for i in range(count)]


def test_accepted_tokens_are_counted_by_position_and_request() -> None:
    engine, _ = speculating_engine(AlwaysFull(4, lookups=[Oracle(0.6)]))
    client = LocalClient(engine)
    outputs = client.generate(_requests())
    drafted = sum(step.draft_tokens for step in client.steps)
    accepted = sum(step.accepted_tokens for step in client.steps)
    assert 0 < accepted < drafted
    assert sum(sum(step.accepted_by_position) for step in client.steps) == accepted
    assert sum(output.num_drafted for output in outputs.values()) == drafted
    assert sum(output.num_draft_accepted for output in outputs.values()) == accepted
    assert sum(len(output.new_ids) for output in outputs.values()) == 4 * 40


def test_finished_sequences_are_released() -> None:
    oracle = Oracle(0.5)
    engine, _ = speculating_engine(AlwaysFull(4, lookups=[oracle]))
    generate(engine, _requests())
    assert sorted(oracle.released) == ["r0", "r1", "r2", "r3"]


def test_rejected_drafts_stop_and_are_tried_again() -> None:
    engine, _ = speculating_engine(Timed(8, lookups=[Oracle(0.0)]), num_blocks=512, max_model_len=1100)
    _, client = generate(engine, [make_request("a", make_prompt(6), max_tokens=1000, ignore_eos=True)])
    tried = [index for index, step in enumerate(client.steps) if step.draft_tokens]
    assert len(tried) < 100
    assert tried[-1] > 500


def test_good_drafts_are_as_long_as_pays() -> None:
    def lengths(row_ms: float) -> list[int]:
        speculator = Timed(8, lookups=[Oracle(0.9)])
        speculator.row_ms = row_ms
        engine, _ = speculating_engine(speculator, num_blocks=512, max_model_len=1100)
        _, client = generate(engine, [make_request("a", make_prompt(6), max_tokens=600, ignore_eos=True)])
        assert all(step.realized_speedup is not None for step in client.steps[1:])
        return [step.draft_tokens for step in client.steps[-40:]]

    free, cheap, dear = lengths(0.0), lengths(20.0), lengths(1000.0)
    assert sum(free) / 40 > 6
    assert 2 < sum(cheap) / 40 < sum(free) / 40
    assert sum(dear) / 40 < 0.5


def test_steps_without_drafts_have_a_speedup_of_one() -> None:
    """The estimate for them does not matter."""
    report = SpeculationReport()
    report.begin_step()
    report.count_decoding_step(4, 4, has_drafts=False, plain_s=0.013, step_s=0.010, drafting_s=0.0)
    assert report.stats()["realized_speedup"] == 1.0
    report.begin_step()
    report.count_decoding_step(4, 4, has_drafts=False, plain_s=0.013, step_s=0.010, drafting_s=0.002)
    assert report.stats()["realized_speedup"] == pytest.approx(0.0198 / 0.0218)
    report.begin_step()
    report.count_draft(4, 4)
    report.count_decoding_step(1, 5, has_drafts=True, plain_s=0.010, step_s=0.012, drafting_s=0.0)
    assert report.stats()["realized_speedup"] > 2


def test_under_load_nobody_drafts() -> None:
    """Where the arithmetic of 32 rows already sets the time of a step, a row more costs what it brings."""

    class ComputeBound(Timed):
        def seconds(self, num_rows: int) -> float:
            return 0.002 * max(16, num_rows)

    requests = [make_request(f"r{i}", make_prompt(6, seed=i), max_tokens=60, ignore_eos=True) for i in range(32)]
    engine, _ = speculating_engine(
        ComputeBound(8, lookups=[Oracle(0.7)]), num_blocks=1024, max_model_len=100, max_num_batched_tokens=512
    )
    _, client = generate(engine, requests)
    loaded = [step for step in client.steps if step.running == 32][5:]
    assert sum(step.draft_tokens for step in loaded) < 0.05 * sum(step.decode_tokens for step in loaded)


class _UnwillingPlanner(DraftPlanner):
    """Never finds it worth while."""

    def plan(self, candidates: list[DraftCandidate], load: StepLoad) -> DraftPlan:
        super().plan(candidates, load)
        return DraftPlan([0] * len(candidates), None)


def _unwilling(**options: Any) -> Speculator:
    speculator = Speculator(8, **options)
    speculator._planner = _UnwillingPlanner(speculator._acceptance, speculator._costs)
    speculator._catch_up._planner = speculator._planner
    return speculator


def _forwards(speculator: Speculator | None) -> list[list[tuple[str, int, int, bool]]]:
    """Each forward pass of the model: for each sequence its rows, drafted ones, and whether it got a token."""
    engine, runner = make_engine(speculator=speculator)
    forwards = []
    launch = runner.launch

    def counted(plan: StepPlan) -> LedgerStep:
        forwards.append([(item.sequence.id, item.num_new, item.num_draft, item.needs_logits) for item in plan.items])
        return launch(plan)

    runner.launch = counted  # type: ignore[method-assign]
    generate(engine, _requests(8))
    assert sum(num_new for items in forwards for _, num_new, _, _ in items) == runner.num_tokens
    return forwards


def test_with_no_drafts_chosen_the_forwards_are_those_without_speculation() -> None:
    """Their number and their rows, the draft model's too."""
    draft_runner = LedgerDraftRunner(64, 4, 1.0)
    drafter = DraftModel(draft_runner, block_size=4, max_len=1000)
    plain = _forwards(None)
    assert _forwards(AlwaysFull(8, lookups=[Oracle(1.0)])) != plain
    assert _forwards(_unwilling(lookups=[Oracle(1.0)])) == plain
    assert _forwards(_unwilling(drafter=drafter)) == plain
    assert draft_runner.num_passes == 0


@pytest.mark.parametrize("kind", ["lookup", "model"])
def test_an_abort_between_steps_leaves_nothing_of_a_draft(kind: str) -> None:
    """A request is aborted after each of its steps; others continue, and its tokens can be generated again."""
    for num_steps in range(1, 8):
        drafter = DraftModel(LedgerDraftRunner(64, 4, 0.7), block_size=4, max_len=1000)
        sources: dict[str, Any] = {"lookups": [Oracle(0.7)]} if kind == "lookup" else {"drafter": drafter}
        engine, runner = make_engine(speculator=AlwaysFull(5, **sources))
        aborted, other = _requests(2)
        engine.add(aborted)
        for _ in range(num_steps):
            engine.step()
        engine.abort(aborted.id, AbortReason.CLIENT_GONE)
        assert generate(engine, [other])[0][other.id] == expected_ids(other)
        assert runner.released == [aborted.id, other.id]
        again = make_request("again", aborted.prompt_ids, max_tokens=40, ignore_eos=True)
        ids, client = generate(engine, [again])
        assert ids["again"] == expected_ids(again)
        assert client.steps[-1].blocks_used == 0
        assert not drafter._draft_sequences
