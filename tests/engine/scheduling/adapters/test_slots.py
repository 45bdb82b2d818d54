"""Slots of adapters: which sequences get one, which wait, and that each computes with its own version."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequest
from engine.protocol import AbortReason, AdapterRef, EngineRequest, FinishReason, ServiceClass
from engine.protocol.sequence_events import WaitReason, Waits
from engine.scheduling.adapters.slots import PATIENCE_S
from tests.engine.scheduling.test_schedules import blocks_of_pool, schedules
from tests.helpers.engines import (
    SchedulerRun,
    expected_ids,
    half_right_draft,
    make_adapter,
    make_config,
    make_prompt,
    make_request,
)

pytestmark = pytest.mark.fast


def make_run(num_slots: int, **options: Any) -> SchedulerRun:
    return SchedulerRun(make_config(num_adapter_slots=num_slots, **options))


def adapted(id: str, name: str, *, max_tokens: int = 4, version: int = 0, **options: Any) -> EngineRequest:
    adapter = make_adapter(name, version)
    return make_request(id, [1, 2, 3], max_tokens=max_tokens, ignore_eos=True, adapter=adapter, **options)


def running(run: SchedulerRun) -> set[str]:
    return {sequence.id for sequence in run.scheduler.running}


def test_different_adapters_and_none_run_in_one_step() -> None:
    run = make_run(2)
    for request in (adapted("a", "x"), make_request("b", [1, 2, 3]), adapted("c", "y"), adapted("d", "x")):
        run.add(request)
    run.step()
    run.step()
    assert {id for id, _, _ in run.plans[-1]} == {"a", "b", "c", "d"}
    transcript = run.finish()
    assert transcript.ids["a"] != transcript.ids["c"]
    assert transcript.ids["a"] == transcript.ids["d"]


def test_one_without_a_slot_blocks_nobody_behind_it() -> None:
    run = make_run(1)
    run.add(adapted("a", "x", max_tokens=8))
    run.step()
    run.step()
    run.add(adapted("b", "y"))
    run.add(make_request("c", [4, 5, 6], ignore_eos=True))
    run.add(adapted("d", "x"))
    run.step()
    assert running(run) == {"a", "c", "d"}
    events = [event for stats in run.stats for event in stats.events]
    assert [event.reason for event in events if isinstance(event, Waits) and event.id == "b"] == [WaitReason.ADAPTER]
    assert set(run.finish().ids) == {"a", "b", "c", "d"}


def test_the_least_recently_used_adapter_makes_room() -> None:
    run = make_run(2)
    for id, name in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "z")):
        run.run([adapted(id, name)])
    assert run.scheduler.adapters is not None
    assert run.scheduler.adapters.digests() == {make_adapter("x").digest, make_adapter("z").digest}
    assert run.scheduler.adapters.take_stats().evictions == 1


def test_one_adapter_cannot_keep_a_slot_for_ever() -> None:
    run = make_run(1, max_num_seqs=2)
    run.add(adapted("x0", "x", max_tokens=6))
    run.step()
    run.step()
    run.add(adapted("y", "y"))
    for index in range(1, 30):
        run.add(adapted(f"x{index}", "x", max_tokens=6))
        run.step()
        run.now_s += PATIENCE_S / 5
        if "y" in run.transcript.ids:
            break
    assert run.transcript.ids["y"]
    assert run.finish().ids["x5"] == expected_ids(adapted("x5", "x", max_tokens=6))


def test_a_slot_opens_again_when_nobody_waits_for_it_any_more() -> None:
    run = make_run(1)
    run.add(adapted("a", "x", max_tokens=30))
    run.step()
    run.step()
    run.add(adapted("b", "y"))
    run.step()
    run.now_s += 2 * PATIENCE_S
    run.step()
    run.add(adapted("c", "x"))
    run.step()
    assert running(run) == {"a"}
    run.scheduler.abort("b", AbortReason.CLIENT_GONE)
    run.step()
    run.step()
    assert running(run) == {"a", "c"}
    run.finish()


def test_a_slot_that_a_batch_has_waited_for_is_closed_to_batches_and_not_to_clients() -> None:
    run = make_run(1)
    run.add(adapted("a", "x", max_tokens=30, service_class=ServiceClass.BATCH))
    run.step()
    run.step()
    run.add(adapted("b", "y", service_class=ServiceClass.BATCH))
    run.step()
    run.now_s += 2 * PATIENCE_S
    run.step()
    run.add(adapted("line", "x", max_tokens=30, service_class=ServiceClass.BATCH))
    run.add(adapted("c", "x"))
    run.step()
    assert "c" in running(run)
    while "b" not in run.transcript.ids:
        run.step()
        assert "line" not in running(run)
    run.finish()


def test_a_slot_that_a_client_has_waited_for_does_not_stay_closed_for_a_batch() -> None:
    run = make_run(1)
    run.add(adapted("first", "x", max_tokens=30, service_class=ServiceClass.BATCH))
    run.step()
    run.step()
    run.add(adapted("line", "z", service_class=ServiceClass.BATCH))
    run.step()
    run.add(adapted("a", "x", max_tokens=30))
    run.step()
    run.add(adapted("b", "y"))
    run.step()
    run.now_s += 2 * PATIENCE_S
    run.step()
    run.add(adapted("c", "x"))
    run.step()
    assert "c" not in running(run)
    run.scheduler.abort("b", AbortReason.CLIENT_GONE)
    run.step()
    run.step()
    assert {"a", "c"} <= running(run)
    run.finish()


def test_a_slot_opens_again_when_nobody_else_waits_at_all() -> None:
    run = make_run(1)
    run.add(adapted("a", "x", max_tokens=30))
    run.step()
    run.step()
    run.add(adapted("b", "y"))
    run.step()
    run.now_s += 2 * PATIENCE_S
    run.step()
    run.scheduler.abort("b", AbortReason.CLIENT_GONE)
    run.step()
    run.add(adapted("c", "x"))
    run.step()
    assert running(run) == {"a", "c"}
    run.finish()


def test_a_slot_that_is_filling_for_nobody_any_more_goes_to_the_next_once_it_is_filled() -> None:
    run = SchedulerRun(make_config(num_adapter_slots=1), fill_steps=3)
    run.add(adapted("a", "x"))
    run.step()
    run.add(adapted("b", "y"))
    run.step()
    run.scheduler.abort("a", AbortReason.CLIENT_GONE)
    run.step()
    assert run.finish().ids["b"] == expected_ids(adapted("b", "y"))


def test_background_work_gives_its_slot_to_a_client_at_once() -> None:
    run = make_run(1)
    run.add(adapted("a", "x", max_tokens=20, service_class=ServiceClass.BACKGROUND))
    run.step()
    run.step()
    run.add(adapted("b", "y"))
    for _ in range(3):
        run.step()
    assert running(run) == {"b"}
    transcript = run.finish()
    assert transcript.ids["a"] == expected_ids(adapted("a", "x", max_tokens=20))


def test_a_reload_under_one_name_finds_nothing_that_the_old_version_computed() -> None:
    prompt = make_prompt(12)
    run = make_run(2)
    first, again, reloaded = (
        make_request(f"r{index}", prompt, adapter=make_adapter("x", version)) for index, version in enumerate((0, 0, 1))
    )
    for request in (first, again, reloaded):
        run.run([request])
    assert [run.transcript.last[f"r{index}"].num_cached_tokens for index in range(3)] == [0, 8, 0]
    assert run.transcript.ids["r2"] == expected_ids(reloaded) != expected_ids(first)


def test_one_adapter_under_two_names_shares_its_prefixes() -> None:
    prompt, digest = make_prompt(12), b"the same"
    run = make_run(2)
    for name in ("x", "y"):
        run.run([make_request(name, prompt, adapter=AdapterRef(name, f"/{name}", digest))])
    assert run.transcript.last["y"].num_cached_tokens == 8


def test_an_adapter_that_cannot_be_read_ends_its_own_requests_alone() -> None:
    run = make_run(1)
    run.lost_digests.add(make_adapter("x").digest)
    for request in (adapted("a", "x"), adapted("b", "y"), adapted("c", "x")):
        run.add(request)
    transcript = run.finish()
    assert transcript.finish_reasons == {
        "a": FinishReason.ERROR,
        "b": FinishReason.LENGTH,
        "c": FinishReason.ERROR,
    }
    assert transcript.last["a"].error == "the adapter is lost"


def test_an_engine_without_adapters_refuses_a_request_with_one() -> None:
    with pytest.raises(InvalidRequest, match="--enable-lora"):
        SchedulerRun(make_config()).add(adapted("a", "x"))


ADAPTERS = [None, None, *(make_adapter(name, version) for name in "xyz" for version in range(2))]


@st.composite
def adapted_workloads(draw: st.DrawFn) -> list[EngineRequest]:
    """Workloads with adapters; versions of one name are different adapters."""
    prefix = make_prompt(24)
    return [
        make_request(
            f"r{index}",
            prefix[: draw(st.integers(0, 24))] + draw(st.lists(st.integers(1, 9), min_size=1, max_size=6)),
            max_tokens=draw(st.integers(1, 20)),
            seed=draw(st.integers(0, 3)),
            priority=draw(st.integers(0, 3)),
            service_class=draw(st.sampled_from([*[ServiceClass.INTERACTIVE] * 3, *ServiceClass])),
            tenant=draw(st.sampled_from(["", "a", "b"])),
            adapter=draw(st.sampled_from(ADAPTERS)),
        )
        for index in range(draw(st.integers(1, 12)))
    ]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    requests=adapted_workloads(),
    schedule=schedules,
    num_slots=st.integers(1, 4),
    fill_steps=st.integers(0, 3),
    drafts=st.booleans(),
    spare=st.integers(0, 12),
    meanwhile=st.lists(st.integers(0, 4), max_size=12),
    seconds=st.floats(0, 2),
    gone=st.sets(st.integers(0, 11), max_size=4),
)
def test_tokens_are_those_of_the_adapter_that_a_request_began_with(
    requests: list[EngineRequest],
    schedule: dict[str, Any],
    num_slots: int,
    fill_steps: int,
    drafts: bool,
    spare: int,
    meanwhile: list[int],
    seconds: float,
    gone: set[int],
) -> None:
    """meanwhile: steps after each request came, so that versions are reloaded while others run. seconds: that a
    step takes. gone: requests that are aborted when the next one comes."""
    config = make_config(num_blocks=blocks_of_pool(schedule, spare), num_adapter_slots=num_slots, **schedule)
    run = SchedulerRun(config, half_right_draft if drafts else None, fill_steps=fill_steps)
    for index, request in enumerate(requests):
        run.add(request)
        for _ in range(meanwhile[index] if index < len(meanwhile) else 0):
            run.step()
            run.now_s += seconds
        if index - 1 in gone:
            run.scheduler.abort(f"r{index - 1}", AbortReason.CLIENT_GONE)
    transcript = run.finish()
    aborted = {id for id, reason in transcript.finish_reasons.items() if reason is FinishReason.ABORT}
    assert aborted <= {f"r{index}" for index in gone}
    assert transcript.finish_reasons.keys() == {r.id for r in requests}
    for request in requests:
        assert request.id in aborted or transcript.ids[request.id] == expected_ids(request)
