"""Pinned prefixes: their blocks stay in the cache, and no request waits for them in vain."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.engine import Engine
from engine.protocol import (
    EngineRequest,
    HandlePrefix,
    NamedPrefix,
    PrefixAction,
    PrefixHandled,
    PrefixReport,
    StepOutputs,
)
from engine.scheduling.config import SchedulerConfig
from tests.engine.scheduling.test_schedules import PREFIXES, blocks_of_pool, schedules, workloads
from tests.helpers.engines import (
    SchedulerRun,
    expected_ids,
    half_right_draft,
    make_adapter,
    make_config,
    make_engine,
    make_prompt,
    make_request,
)
from tests.helpers.memory_tier import MemoryTier

pytestmark = pytest.mark.fast

PIN, UNPIN, REPORT, SAVE = PrefixAction.PIN, PrefixAction.UNPIN, PrefixAction.REPORT, PrefixAction.SAVE
PROMPT = make_prompt(18)  # four blocks, and two tokens more
OTHER = make_prompt(12, seed=1)


def config_of(num_blocks: int = 32, max_model_len: int = 40, fraction: float = 1.0, **options: Any) -> SchedulerConfig:
    config = make_config(num_blocks=num_blocks, **options)
    return dataclasses.replace(config, max_model_len=max_model_len, kv_pin_fraction=fraction)


def cached(*prompts: list[int], **options: Any) -> SchedulerRun:
    """A scheduler whose cache has the prompts."""
    run = SchedulerRun(config_of(**options))
    run.run(make_request(f"compute {number}", prompt, max_tokens=1) for number, prompt in enumerate(prompts))
    return run


def handle(run: SchedulerRun, action: PrefixAction, prompt: list[int], name: str = "a", **fields: Any) -> PrefixReport:
    report = run.scheduler.handle_prefix(action, NamedPrefix(name=name, prompt_ids=prompt, **fields))
    run.scheduler.check()
    return report


def fill_cache(run: SchedulerRun) -> None:
    """Compute so many other tokens that all that can be evicted is."""
    run.run(make_request(f"fill {seed}", make_prompt(36, seed=seed), max_tokens=4) for seed in range(10, 20))


@pytest.mark.parametrize("windows", [(None,), (None, 6), (None, -5)])
def test_a_pinned_prefix_is_found_after_the_cache_was_filled(windows: tuple[int | None, ...]) -> None:
    options = {"windows": windows, "num_blocks": 32 * len(windows)}
    run, bare = cached(PROMPT, **options), cached(PROMPT, **options)
    report = handle(run, PIN, PROMPT)
    assert (report.is_pinned, report.num_tokens, report.num_in_cache) == (True, 16, report.num_blocks)
    for each in (run, bare):
        fill_cache(each)
        each.run([make_request("last", PROMPT, max_tokens=4)])
    assert run.transcript.last["last"].num_cached_tokens == 16
    assert bare.transcript.last["last"].num_cached_tokens == 0


def test_an_unpinned_prefix_may_be_evicted() -> None:
    run = cached(PROMPT)
    handle(run, PIN, PROMPT)
    report = handle(run, UNPIN, PROMPT)
    assert (report.was_pinned, report.is_pinned, report.num_in_cache, report.num_pinned) == (True, False, 4, 0)
    fill_cache(run)
    assert handle(run, REPORT, PROMPT).num_in_cache == 0


def test_a_prefix_that_is_not_in_the_cache_is_not_pinned() -> None:
    report = handle(cached(PROMPT[:9]), PIN, PROMPT)
    assert (report.is_pinned, report.is_refused, report.num_blocks, report.num_in_cache) == (False, False, 4, 2)
    assert report.num_pinned == 0


@pytest.mark.parametrize("other", [{"cache_salt": "x"}, {"adapter": make_adapter("sql")}])
def test_a_prefix_of_another_key_or_adapter_is_another(other: dict[str, Any]) -> None:
    assert handle(cached(PROMPT), PIN, PROMPT, **other).num_in_cache == 0


def test_a_pin_beyond_the_limit_is_refused_before_anything_is_computed() -> None:
    run = cached(PROMPT, fraction=4 / 32)
    assert handle(run, PIN, PROMPT).is_pinned
    report = handle(run, PIN, OTHER, name="b")
    assert (report.is_refused, report.is_pinned, report.num_pinned, report.max_pinned) == (True, False, 4, 4)


def test_the_limit_leaves_room_for_the_longest_request() -> None:
    run = cached(PROMPT, OTHER, num_blocks=14, max_model_len=40)
    assert handle(run, PIN, PROMPT).max_pinned == 4
    assert handle(run, PIN, OTHER, name="b").is_refused
    request = make_request("long", make_prompt(30, seed=5), max_tokens=10, ignore_eos=True)
    assert run.run([request]).ids["long"] == expected_ids(request)


def test_blocks_of_two_names_count_once_and_stay_until_both_are_unpinned() -> None:
    run = cached(PROMPT)
    handle(run, PIN, PROMPT)
    assert handle(run, PIN, PROMPT[:8], name="b").num_pinned == 4
    handle(run, UNPIN, PROMPT)
    fill_cache(run)
    assert handle(run, REPORT, PROMPT).num_in_cache == handle(run, REPORT, PROMPT).num_pinned == 2


def test_a_second_pin_of_a_name_replaces_the_first() -> None:
    run = cached(PROMPT, OTHER)
    handle(run, PIN, PROMPT)
    assert not handle(run, REPORT, OTHER).is_pinned
    report = handle(run, PIN, OTHER)
    assert (report.is_pinned, report.num_pinned) == (True, 3)
    assert not handle(run, REPORT, PROMPT).is_pinned


def test_a_replacement_that_is_refused_leaves_the_first() -> None:
    run = cached(OTHER, fraction=3 / 32)
    handle(run, PIN, OTHER)
    assert handle(run, PIN, PROMPT).is_refused
    assert handle(run, REPORT, OTHER).is_pinned


def test_a_request_that_fails_unpins_nothing() -> None:
    run = cached(PROMPT)
    handle(run, PIN, PROMPT)
    run.runner.fail_ids.add("bad")
    run.run([make_request("bad", [*PROMPT, 7, 7, 7, 7])])
    assert handle(run, REPORT, PROMPT).is_pinned


@pytest.mark.parametrize("windows", [(None,), (None, 6)])
def test_a_pin_ends_when_the_request_that_computed_it_fails(windows: tuple[int | None, ...]) -> None:
    run = SchedulerRun(config_of(windows=windows, num_blocks=64))
    run.add(make_request("bad", [*PROMPT, 7, 7, 7, 7], max_tokens=12, ignore_eos=True))
    run.step()
    assert handle(run, PIN, PROMPT).is_pinned
    run.runner.fail_ids.add("bad")
    run.run([])
    report = handle(run, REPORT, PROMPT)
    assert (report.is_pinned, report.num_in_cache, report.num_pinned) == (False, 0, 0)


def test_a_request_that_fails_removes_what_it_computed_from_the_disk_though_it_was_pinned() -> None:
    tier = MemoryTier()
    engine, runner = make_engine(max_model_len=60, tier=tier)
    engine.add(make_request("bad", PROMPT, max_tokens=30, ignore_eos=True))
    for _ in range(4):
        engine.step()
    engine.handle(HandlePrefix(0, PIN, NamedPrefix(name="a", prompt_ids=PROMPT)))
    engine.step()
    assert len(tier.blocks) == 4
    runner.fail_ids.add("bad")
    run_to_end(engine)
    assert not tier.blocks
    assert handled(engine, REPORT, PROMPT).num_missing == 4


def test_a_request_that_fails_after_it_computed_a_pinned_prefix_again_unpins_nothing() -> None:
    run = cached(PROMPT)
    handle(run, PIN, PROMPT)
    run.runner.fail_ids.add("bad")
    run.run([make_request("bad", PROMPT, prompt_logprobs=0)])  # needs the logits of all tokens
    assert handle(run, REPORT, PROMPT).is_pinned


def test_a_request_that_fails_leaves_pinned_blocks_on_disk() -> None:
    tier = MemoryTier()
    engine, runner = make_engine(max_model_len=60, tier=tier)
    engine.add(make_request("a", PROMPT, max_tokens=1))
    run_to_end(engine)
    handled(engine, PIN, PROMPT)
    keys = set(tier.blocks)
    runner.fail_ids.add("bad")
    engine.add(make_request("bad", [*PROMPT, 7, 7, 7, 7], max_tokens=2))
    run_to_end(engine)
    assert keys
    assert keys <= set(tier.blocks)


def test_a_pin_of_more_than_is_cached_is_refused_at_once() -> None:
    run = cached(PROMPT, fraction=5 / 32)
    handle(run, PIN, PROMPT)
    assert handle(run, PIN, [*PROMPT, *range(9)]).is_refused


def test_a_prefix_is_idle_since_its_last_request() -> None:
    run = cached(PROMPT)
    assert handle(run, REPORT, make_prompt(8, seed=9)).idle_s is None
    handle(run, PIN, PROMPT)
    assert (handle(run, REPORT, PROMPT).idle_s or 0) > 0
    run.add(make_request("now", PROMPT, max_tokens=4))
    run.step()
    assert handle(run, REPORT, PROMPT).idle_s == 0


def test_an_engine_answers_and_counts_pinned_blocks() -> None:
    engine, _ = make_engine(max_model_len=40)
    engine.add(make_request("a", PROMPT, max_tokens=1))
    run_to_end(engine)
    answer = engine.handle(HandlePrefix(3, PIN, NamedPrefix(name="a", prompt_ids=PROMPT)))
    assert isinstance(answer, PrefixHandled)
    assert (answer.number, answer.report.is_pinned) == (3, True)
    assert engine.has_work
    assert engine.step().stats.blocks_pinned == 4
    assert not engine.has_work


@pytest.mark.parametrize("action", [SAVE, PIN])
def test_a_saved_prefix_is_read_by_the_next_engine(action: PrefixAction) -> None:
    tier = MemoryTier()
    for number, num_cached in enumerate((0, 16)):
        engine, _ = make_engine(max_model_len=40, tier=tier, windows=(None, 6))
        engine.add(make_request("a", PROMPT, max_tokens=1))
        outputs = [output for step in run_to_end(engine) for output in step.outputs]
        assert outputs[-1].num_cached_tokens == num_cached
        before, after = (handled(engine, each, PROMPT) for each in (action, REPORT))
        assert before.num_missing == 0
        assert before.num_on_disk == (before.num_blocks if number else 0)
        assert after.num_on_disk == after.num_blocks == len(tier.blocks)


def test_a_prefix_that_was_evicted_counts_as_used_when_it_is_saved_again() -> None:
    tier = MemoryTier()
    engine, _ = make_engine(num_blocks=12, max_model_len=40, tier=tier)
    for id, prompt in (("a", PROMPT), ("fill", make_prompt(36, seed=3)), ("more", make_prompt(36, seed=4))):
        engine.add(make_request(id, prompt, max_tokens=4))
        run_to_end(engine)
        if id == "a":
            saved = handled(engine, SAVE, PROMPT).num_blocks
            keys = [*tier.blocks]
    assert handled(engine, REPORT, PROMPT).num_in_cache < saved
    assert {*[*tier.blocks][-saved:]} != {*keys}
    report = handled(engine, SAVE, PROMPT)
    assert (report.num_missing, report.num_on_disk) == (0, saved)
    assert {*[*tier.blocks][-saved:]} == {*keys}


def test_a_save_misses_blocks_that_were_never_computed() -> None:
    engine, _ = make_engine(tier=MemoryTier())
    assert handled(engine, SAVE, PROMPT).num_missing == 4


def handled(engine: Engine, action: PrefixAction, prompt: list[int]) -> PrefixReport:
    answer = engine.handle(HandlePrefix(0, action, NamedPrefix(name="a", prompt_ids=prompt)))
    assert isinstance(answer, PrefixHandled)
    run_to_end(engine)
    return answer.report


def run_to_end(engine: Engine) -> list[StepOutputs]:
    steps = []
    while engine.has_work or engine.is_preparing:
        if not engine.has_work:
            engine.wait_for_prepared()
        steps.append(engine.step())
    return steps


@settings(max_examples=35, deadline=None, derandomize=True)
@given(
    requests=workloads(),
    schedule=schedules,
    drafts=st.booleans(),
    spare=st.integers(1, 12),
    data=st.data(),
)
def test_tokens_do_not_depend_on_pins(
    requests: list[EngineRequest], schedule: dict[str, Any], drafts: bool, spare: int, data: st.DataObject
) -> None:
    """Every request is served in a cache that, without the pins, has room for the longest one alone."""
    num_blocks = blocks_of_pool(schedule, spare)
    config = config_of(num_blocks, 50, **{**schedule, "num_states": 0, "enable_prefix_caching": True})
    run = SchedulerRun(config, half_right_draft if drafts else None)
    prefixes = dict(zip("abc", 2 * PREFIXES, strict=False))
    pinned: dict[str, list[int]] = {}
    for request in requests:
        run.add(request)
        for _ in range(data.draw(st.integers(0, 4))):
            run.step()
        name = data.draw(st.sampled_from([*prefixes]))
        prompt = prefixes[name][: data.draw(st.sampled_from([8, 16, 24]))]
        if handle(run, PIN, prompt, name=name).is_pinned:
            pinned[name] = prompt
        elif data.draw(st.booleans()):
            handle(run, UNPIN, prompt, name=name)
            pinned.pop(name, None)
    longest = make_request("longest", make_prompt(40, seed=9), max_tokens=10, ignore_eos=True)
    transcript = run.run([longest])
    assert transcript.ids == {request.id: expected_ids(request) for request in [*requests, longest]}
    assert all(handle(run, REPORT, prompt, name=name).is_pinned for name, prompt in pinned.items())
