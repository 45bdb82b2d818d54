"""Lines of batches keep their blocks while clients run, and give back what clients need: the last line first."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import AbortReason, EngineRequest, ServiceClass
from engine.protocol.sequence_events import Paused, Resumed
from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.capacity import KVCapacity
from engine.scheduling.pauses import Pauses
from engine.scheduling.sequence import Sequence, SequenceStatus
from tests.engine.scheduling.test_batch_schedules import Arrival, arrivals, play, schedules
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


def line(name: str, length: int = 5, **fields: Any) -> EngineRequest:
    return _request(name, length, service_class=ServiceClass.BATCH, **fields)


def client(name: str, length: int = 5, **fields: Any) -> EngineRequest:
    return _request(name, length, **fields)


def _request(name: str, length: int, **fields: Any) -> EngineRequest:
    return make_request(name, make_prompt(length, seed=sum(name.encode())), ignore_eos=True, **fields)


def planned(run: SchedulerRun) -> dict[str, int]:
    """The tokens of each sequence in the next step, which is made."""
    run.step()
    return {name: num_new for name, num_new, _ in run.plans[-1]}


def status(run: SchedulerRun, name: str) -> SequenceStatus:
    return run.scheduler._lifecycle.sequences[name].status


def num_recomputed(run: SchedulerRun) -> int:
    return sum(stats.batch_recomputed_tokens for stats in run.stats)


def test_a_paused_line_goes_on_with_its_next_token() -> None:
    run = SchedulerRun(make_config(block_size=4, enable_prefix_caching=False))
    run.add(line("a", 6))
    run.step()
    run.step()
    run.add(client("c", max_tokens=2))
    assert planned(run) == {"c": 5}
    assert status(run, "a") is SequenceStatus.PAUSED
    assert (run.stats[-1].running_batch, run.stats[-1].paused_batch, run.stats[-1].waiting_batch) == (0, 1, 0)
    assert planned(run) == {"c": 1}
    assert planned(run) == {"a": 1}
    assert (num_recomputed(run), run.stats[-1].batch_preemptions) == (0, 0)


def test_each_pause_is_reported_with_its_end() -> None:
    run = SchedulerRun(make_config(block_size=4, enable_prefix_caching=False))
    run.add(line("a", 6))
    run.step()
    for name in ("c", "d"):
        run.add(client(name, max_tokens=1))
        run.step()
        run.step()
    found = [event for stats in run.stats for event in stats.events if event.id == "a"]
    assert found[3:] == [Paused("a", 100.0), Resumed("a", 100.0)] * 2


def test_a_line_that_is_paused_within_its_prompt_goes_on_within_it() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=6, enable_prefix_caching=False))
    run.add(line("a", 15))
    assert planned(run) == {"a": 6}
    run.add(client("c", max_tokens=1))
    assert planned(run) == {"c": 5}
    assert [planned(run) for _ in range(2)] == [{"a": 6}, {"a": 3}]


def test_the_last_line_gives_back_its_blocks_first_and_no_more_than_are_needed() -> None:
    run = SchedulerRun(make_config(num_blocks=12, block_size=4))
    for name in ("a", "b", "d"):
        run.add(line(name, 14, max_tokens=9))  # 4 blocks each
    run.step()
    run.add(client("c", 13, max_tokens=1))  # 4 blocks
    assert planned(run) == {"c": 13}
    assert [status(run, name) for name in ("a", "b", "d")] == [
        SequenceStatus.PAUSED,
        SequenceStatus.PAUSED,
        SequenceStatus.WAITING,
    ]
    assert run.stats[-1].batch_preemptions == 1


def test_a_client_that_grows_takes_the_blocks_of_paused_lines() -> None:
    run = SchedulerRun(make_config(num_blocks=8, block_size=4))
    run.add(line("a", 10, max_tokens=9))  # 3 blocks
    run.add(line("b", 10, max_tokens=9))
    run.step()
    run.add(client("c", 7, max_tokens=20))  # 2 blocks at first, 7 in the end
    transcript = run.finish()
    assert {name: len(ids) for name, ids in transcript.ids.items()} == {"a": 9, "b": 9, "c": 20}
    assert run.stats[-1].preemptions == 0


def test_lines_take_no_place_while_they_are_paused() -> None:
    run = SchedulerRun(make_config(max_num_seqs=2))
    for name in ("a", "b"):
        run.add(line(name))
    run.step()
    for name in ("c", "d"):
        run.add(client(name, max_tokens=1))
    assert planned(run) == {"c": 5, "d": 5}
    assert planned(run) == {"a": 1, "b": 1}
    assert num_recomputed(run) == 0


def test_a_client_without_a_place_has_no_line_give_back_its_blocks() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1, num_blocks=32))
    run.add(line("a", max_tokens=9))
    run.step()
    run.add(client("b", service_class=ServiceClass.BACKGROUND, max_tokens=9))
    run.step()
    run.add(client("c", max_tokens=2))  # takes the place of the one in the background
    assert planned(run) == {"c": 5}
    assert status(run, "a") is SequenceStatus.PAUSED
    run.finish()
    assert num_recomputed(run) == 0


def test_drafts_of_a_line_are_dropped_with_their_blocks() -> None:
    run = SchedulerRun(make_config(block_size=1, num_blocks=64), half_right_draft)
    run.add(line("a", max_tokens=20))
    run.step()
    run.step()
    run.add(client("c", max_tokens=1))
    run.step()
    paused = run.scheduler._lifecycle.sequences["a"]
    assert (paused.draft, len(paused.tables[0])) == ([], paused.num_computed)
    assert run.finish().ids["a"] == expected_ids(paused.request)


def test_a_paused_line_can_be_aborted() -> None:
    run = SchedulerRun(make_config())
    run.add(line("a"))
    run.step()
    run.add(client("c", max_tokens=3))
    run.step()
    run.scheduler.abort("a", AbortReason.CLIENT_GONE)
    run.step()
    assert "a" in run.transcript.finish_reasons
    run.finish()


def test_prefixes_of_clients_are_not_evicted_while_lines_have_more_than_half() -> None:
    run = SchedulerRun(make_config(num_blocks=16, block_size=4))
    for name in ("a", "b", "d"):
        run.add(line(name, 13, max_tokens=9))  # 4 blocks each: at night they have more than half
    run.step()
    run.add(client("c", 13, max_tokens=1))  # takes the 4 that are left, and leaves 3 of them cached
    run.step()
    run.add(client("e", 13, max_tokens=1))  # needs 4 where 1 is blank: a line gives back its own
    run.step()
    assert status(run, "d") is SequenceStatus.WAITING
    run.add(make_request("c2", make_prompt(13, seed=sum(b"c")), max_tokens=1))
    run.step()
    assert run.stats[-1].prefix_hits >= 12
    assert status(run, "a") is SequenceStatus.PAUSED


def test_blocks_of_paused_lines_are_counted_once_while_the_same_are_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each client that needs a block while only cached prefixes are free."""
    run = SchedulerRun(make_config(num_blocks=24, block_size=1))
    run.add(line("a", 8, max_tokens=9))
    run.step()
    run.add(client("c", 14, max_tokens=1))  # leaves its prefix cached
    run.step()
    counted: list[str] = []
    blocks = KVCapacity.blocks

    def count(self: KVCapacity, sequence: Sequence, pool: BlockPool) -> list[int]:
        counted.append(sequence.id)
        return blocks(self, sequence, pool)

    monkeypatch.setattr(Pauses, "check", lambda _: None)  # it counts, too
    monkeypatch.setattr(KVCapacity, "blocks", count)
    for name in ("d", "e"):
        run.add(client(name, 2, max_tokens=4))
    for _ in range(4):
        run.step()
    assert status(run, "a") is SequenceStatus.PAUSED
    assert counted == ["a"]


def test_behind_a_client_without_room_nobody_takes_the_blocks_of_paused_lines() -> None:
    """They are for that one, as is what is free."""
    run = SchedulerRun(make_config(num_blocks=20, block_size=4, enable_prefix_caching=False))
    run.add(line("line", 17, max_tokens=9))  # 5 blocks
    run.step()
    run.add(client("c", 53, max_tokens=3, tenant="a"))  # 14 blocks
    run.step()
    run.add(client("long", 40, max_tokens=1, tenant="a"))  # 10 blocks, of 6 that there could be
    run.add(client("short", 10, max_tokens=1, tenant="b"))  # 3
    assert planned(run) == {"c": 1}
    assert status(run, "line") is SequenceStatus.PAUSED
    run.finish()


def test_lines_go_on_while_the_adapter_of_a_client_is_read() -> None:
    run = SchedulerRun(make_config(num_adapter_slots=1), fill_steps=3)
    run.add(line("a", max_tokens=9))
    run.step()
    run.add(client("c", max_tokens=1, adapter=make_adapter("x")))
    assert planned(run) == {"a": 1}
    run.finish()
    assert num_recomputed(run) == 0


def test_a_client_takes_the_adapter_slot_of_a_paused_line() -> None:
    run = SchedulerRun(make_config(num_adapter_slots=1))
    run.add(line("a", max_tokens=9, adapter=make_adapter("x")))
    for _ in range(3):  # its adapter is read first
        run.step()
    run.add(client("c", max_tokens=2, adapter=make_adapter("y")))
    transcript = run.finish()
    assert len(transcript.ids["a"]) == 9
    assert len(transcript.ids["c"]) == 2


@settings(max_examples=60, deadline=None, derandomize=True)
@given(every=arrivals(shares_prefixes=True), schedule=schedules, drafts=st.booleans())
def test_where_there_is_room_nothing_of_a_line_is_computed_again(
    every: list[Arrival], schedule: dict[str, Any], drafts: bool
) -> None:
    config = make_config(num_blocks=400, **{**schedule, "num_states": 400 if schedule["num_states"] else 0})
    run = SchedulerRun(config, half_right_draft if drafts else None)
    every = [
        Arrival(each.step, msgspec.structs.replace(each.request, tenant="")) for each in every
    ]  # no shares to claim
    play(run, every)
    assert run.transcript.ids == {each.request.id: expected_ids(each.request) for each in every}
    assert num_recomputed(run) == 0
    assert sum(stats.batch_preemptions for stats in run.stats) == 0
