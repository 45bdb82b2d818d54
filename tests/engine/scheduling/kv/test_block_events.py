"""BlockEvents: a subscriber knows exactly the blocks that the pools have cached, and the tokens in them."""

from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from engine.engine import Engine
from engine.protocol import EngineRequest
from engine.protocol.kv_events import BlockStored, block_hash
from engine.scheduling.kv.prefixes import group_key, unit_hashes
from tests.engine.scheduling.test_schedules import blocks_of_pool, schedules, workloads
from tests.helpers.engines import SchedulerRun, make_adapter, make_config, make_engine, make_prompt, make_request
from tests.helpers.kv_subscriber import CollectingPublisher
from tests.helpers.local_client import LocalClient
from tests.helpers.memory_tier import MemoryTier

pytestmark = pytest.mark.fast


def cached(engine: Engine) -> set[int]:
    """The hashes of all blocks that the pools can find."""
    kv = engine._scheduler._kv
    digests = [pool.digest(block) for pool in (kv.pool, kv.states) for block in range(pool.num_blocks)]
    return {block_hash(digest) for digest in digests if digest is not None}


@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    requests=workloads(),
    schedule=schedules.filter(lambda schedule: schedule["enable_prefix_caching"]),
    spare=st.integers(0, 12),
    kind=st.sampled_from(["plain", "feeds", "tier"]),
)
def test_a_subscriber_knows_the_cached_blocks_after_every_step(
    requests: list[EngineRequest], schedule: dict[str, Any], spare: int, kind: str
) -> None:
    publisher = CollectingPublisher()
    engine, _ = make_engine(
        num_blocks=blocks_of_pool(schedule, spare),
        max_model_len=50,
        feeds=kind == "feeds",
        publisher=publisher,
        tier=MemoryTier() if kind == "tier" else None,
        **{**schedule, "num_states": 0 if kind == "tier" else schedule["num_states"]},
    )
    for number in range(2):
        for request in requests:
            engine.add(request)
        while engine.has_work or engine.is_preparing:
            if not engine.has_work:
                engine.wait_for_prepared()
            engine.step()
            if engine._ahead is None:  # a plan ahead has evicted blocks after the events were taken
                assert publisher.subscriber.cached["GPU"] == cached(engine), number


def test_events_have_the_tokens_of_their_blocks_and_the_hash_of_the_block_before() -> None:
    publisher = CollectingPublisher()
    engine, _ = make_engine(block_size=4, max_num_batched_tokens=8, publisher=publisher)
    prompt = make_prompt(17)
    LocalClient(engine).generate([make_request("a", prompt, max_tokens=1)])
    stored = [event for event in publisher.subscriber.events if event["type"] == "BlockStored"]
    hashes = [block_hash(group_key(0, digest)) for digest in unit_hashes(prompt, 4, "", None)]
    assert [event["token_ids"] for event in stored] == [prompt[:8], prompt[8:16]]
    assert [event["block_hashes"] for event in stored] == [hashes[:2], hashes[2:]]
    assert [event["parent_block_hash"] for event in stored] == [None, hashes[1]]
    assert {event["kv_cache_spec_kind"] for event in stored} == {"full_attention"}
    assert all(event["lora_name"] is None and "extra_keys" not in event for event in stored)


def test_a_salt_stands_at_the_first_block_of_its_prefix() -> None:
    publisher = CollectingPublisher()
    engine, _ = make_engine(block_size=4, max_num_batched_tokens=8, publisher=publisher)
    LocalClient(engine).generate([make_request("a", make_prompt(17), max_tokens=1, cache_salt="mine")])
    first, second = (event for event in publisher.subscriber.events if event["type"] == "BlockStored")
    assert first["extra_keys"] == [["mine"], None]
    assert "extra_keys" not in second


def test_a_prefix_that_is_cached_already_is_not_stored_again() -> None:
    publisher = CollectingPublisher()
    engine, _ = make_engine(block_size=4, publisher=publisher)
    for name in ("a", "b"):
        LocalClient(engine).generate([make_request(name, make_prompt(17), max_tokens=1)])
    assert [event["type"] for event in publisher.subscriber.events] == ["BlockStored"]


def test_blocks_of_an_adapter_have_its_name() -> None:
    run = SchedulerRun(make_config(num_adapter_slots=1, records_block_events=True))
    run.run([make_request("a", make_prompt(40), max_tokens=1, adapter=make_adapter("french"))])
    events = run.scheduler.take_block_events()
    assert {event.lora_name for event in events if isinstance(event, BlockStored)} == {"french"}


def test_groups_of_layers_have_numbers_and_kinds() -> None:
    publisher = CollectingPublisher()
    engine, _ = make_engine(block_size=4, windows=(None, 8, -8), publisher=publisher)
    LocalClient(engine).generate([make_request("a", make_prompt(17), max_tokens=1)])
    fields = ("group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window")
    kinds = {tuple(event.get(name) for name in fields) for event in publisher.subscriber.events if "token_ids" in event}
    assert kinds == {(0, "full_attention", None), (1, "sliding_window", 8), (2, "chunked_local_attention", 8)}
