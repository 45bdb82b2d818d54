"""The master property with speculation: drafts of any source, length and quality change no output."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import SchedulingPolicy
from engine.draft_model.model import DraftModel, widest_group
from engine.engine import Engine
from engine.protocol import EngineRequest
from engine.scheduling.kv.groups import prefix_unit
from engine.speculation.ngram import NgramProposer
from tests.engine.scheduling.test_schedules import blocks_of_pool, schedules, workloads
from tests.helpers.drafting import AlwaysFull, LedgerDraftRunner, Oracle, generate, speculating_engine
from tests.helpers.engines import expected_ids, make_groups, make_prompt, make_request


def _with_predictions(requests: list[EngineRequest], noise: int) -> list[EngineRequest]:
    """Each with a prediction that is its text with some tokens changed, left out or put in."""
    result = []
    for request in requests:
        text = expected_ids(request)
        if noise and len(text) > 4:
            text = [*text[:2], 7, *text[2 + noise % 2 :]]
            text[-1] = (text[-1] + noise) % 40
        result.append(
            EngineRequest(
                id=request.id,
                prompt_ids=request.prompt_ids,
                sampling=request.sampling,
                arrival_s=request.arrival_s,
                priority=request.priority,
                prediction_ids=text,
            )
        )
    return result


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    requests=workloads(),
    schedule=schedules,
    policy=st.sampled_from(SchedulingPolicy),
    spare=st.integers(0, 12),
    max_tokens=st.sampled_from([1, 2, 5, 15]),
    quality=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    noise=st.integers(0, 3),
    kind=st.sampled_from(["oracle", "ngram", "prediction", "model", "model"]),
    draft_windows=st.sampled_from([(None,), (None,), (3,), (None, 7)]),
)
def test_tokens_do_not_depend_on_speculation(
    requests: list[EngineRequest],
    schedule: dict[str, Any],
    policy: SchedulingPolicy,
    spare: int,
    max_tokens: int,
    quality: float,
    noise: int,
    kind: str,
    draft_windows: tuple[int | None, ...],
) -> None:
    lookups = {"oracle": [Oracle(quality)], "ngram": [NgramProposer(1, 2)]}.get(kind, [])
    drafter = None
    num_blocks = blocks_of_pool(schedule, spare)
    if kind == "model":
        groups = make_groups(schedule["block_size"], schedule["windows"], schedule["num_states"], schedule["ratios"])
        widest = widest_group(groups)
        size = groups[widest].block_size
        drafter = DraftModel(
            LedgerDraftRunner(num_blocks, size, quality, draft_windows),
            block_size=size,
            max_len=40,
            kv_group=widest,
            blocks_per_unit=prefix_unit(groups) // size,
        )
    if kind == "prediction":
        requests = _with_predictions(requests, noise)
    speculator = AlwaysFull(max_tokens, lookups=lookups, drafter=drafter)
    engine, _ = speculating_engine(speculator, num_blocks=num_blocks, max_model_len=50, policy=policy, **schedule)
    ids, _ = generate(engine, requests)
    assert ids == {r.id: expected_ids(r) for r in requests}


def test_a_perfect_oracle_shortens_a_run_as_much_as_its_drafts_are_long() -> None:
    requests = [make_request("a", make_prompt(5), max_tokens=61, ignore_eos=True)]
    engine, _ = speculating_engine(AlwaysFull(5, lookups=[Oracle(1.0)]))
    _, client = generate(engine, requests)
    assert len(client.steps) == 1 + 10  # the prompt's step, then six tokens each
    assert sum(step.accepted_tokens for step in client.steps) == sum(step.draft_tokens for step in client.steps) == 50


def _model_engine(quality: float, **options: Any) -> tuple[Engine, LedgerDraftRunner]:
    runner = LedgerDraftRunner(64, 4, quality)
    drafter = DraftModel(runner, block_size=4, max_len=1000)
    return speculating_engine(AlwaysFull(4, drafter=drafter), **options)[0], runner


def test_a_draft_model_drafts_for_all_sequences_in_each_pass() -> None:
    requests = [make_request(f"r{i}", make_prompt(6, seed=i), max_tokens=21, ignore_eos=True) for i in range(4)]
    engine, runner = _model_engine(1.0)
    _, client = generate(engine, requests)
    assert len(client.steps) == 1 + 4  # the prompts, then five tokens each
    assert runner.num_passes == 4 * 4


def test_a_prefix_that_the_draft_model_has_computed_is_not_computed_again() -> None:
    engine, runner = _model_engine(1.0)
    prompt = make_prompt(40)
    generate(engine, [make_request("a", prompt, max_tokens=9, ignore_eos=True)])
    passes = runner.num_passes
    generate(engine, [make_request("b", [*prompt, 1, 2], max_tokens=6, ignore_eos=True)])
    assert runner.num_passes - passes == 4  # no pass to catch up
