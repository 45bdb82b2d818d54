"""ProcessClient against a scripted engine process: start, delivery, aborts, and what it refuses."""

import asyncio
from pathlib import Path

import pytest

from engine.child_processes import frames
from engine.client.interface import EngineCallbacks, EngineState
from engine.errors import EngineStopped, EngineUnavailable, ModelUnusable, OptionError, QueueFull, StartupError
from engine.protocol import AbortReason, FinishReason
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.scripted_client import read_all, scripted_client, scripted_request


async def test_outputs_arrive_in_order_and_end_once() -> None:
    async with scripted_client() as client:
        await client.wait_ready()
        assert (client.status().stage, client.status().reason) == (None, "")
        outputs = await read_all(client.submit(scripted_request("a", 5)))
        assert [token_id for output in outputs for token_id in output.new_ids] == [0, 1, 2, 3, 4]
        assert [o.finish_reason for o in outputs if o.finish_reason] == [FinishReason.LENGTH]
        assert client.status().num_open == 0


async def test_outputs_merge_while_the_reader_is_slow() -> None:
    async with scripted_client() as client:
        await client.wait_ready()
        stream = client.submit(scripted_request("a", 50))
        await until(lambda: client.status().num_open == 0)
        outputs = await read_all(stream)
        assert len(outputs) == 1
        assert outputs[0].new_ids == list(range(50))


async def test_a_request_that_no_frame_can_hold_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_client() as client:
        await client.wait_ready()
        monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 1 << 14)
        (refused,) = await read_all(client.submit(scripted_request("a", *range(1 << 14))))
        assert (refused.finish_reason, refused.is_refused) == (FinishReason.ERROR, True)
        assert refused.error is not None
        assert "the limit is 16,384); send less at once" in refused.error
        assert (await read_all(client.submit(scripted_request("b", 5))))[-1].finish_reason is FinishReason.LENGTH
        assert (client.status().num_open, client.status().num_restarts) == (0, 0)


async def test_abort_drops_and_counts_what_was_not_read() -> None:
    discarded: list[int] = []
    async with scripted_client(callbacks=EngineCallbacks(on_discarded=discarded.append)) as client:
        await client.wait_ready()
        stream = client.submit(scripted_request("a", -2))
        first = await anext(aiter(stream))
        assert first.new_ids == [1, 2]
        stream.abort(AbortReason.CLIENT_GONE)
        stream.abort(AbortReason.CLIENT_GONE)
        await until(lambda: client.status().num_open == 0)
        assert discarded == [1]


async def test_a_stop_tells_open_streams_that_it_was_one() -> None:
    async with scripted_client() as client:
        await client.wait_ready()
        stream = client.submit(scripted_request("a", -2))
    with pytest.raises(EngineStopped, match="the server stopped"):
        await read_all(stream)


async def test_loading_tells_its_stage() -> None:
    async with scripted_client("loading") as client:
        await until(lambda: client.status().stage is not None)
        status = client.status()
        assert (status.stage, status.progress) == ("load weights", 0.25)
        assert status.reason == "the model is being loaded: load weights, 25 %"


async def test_a_stop_while_loading_ends_the_compiler_too() -> None:
    async with scripted_client("compiling") as client:
        await until(lambda: (client.status().stage or "").isdecimal())
        compiler = Path(f"/proc/{client.status().stage}/stat")
        assert compiler.exists()
    await until(lambda: not compiler.exists() or ") Z " in compiler.read_text())  # Z: nobody has waited for it


async def test_an_engine_that_cannot_start_says_why() -> None:
    async with scripted_client("failing") as client:
        with pytest.raises(StartupError, match="no such model"):
            async with asyncio.timeout(DEADLINE_S):
                await client.wait_ready()
        assert client.status().state is EngineState.DEAD


async def test_an_option_that_the_engine_refuses_is_told_apart() -> None:
    """The command line exits with another status for it."""
    async with scripted_client("refusing") as client:
        with pytest.raises(OptionError, match="no such option"):
            async with asyncio.timeout(DEADLINE_S):
                await client.wait_ready()


async def test_files_that_will_never_load_are_told_apart() -> None:
    async with scripted_client("unusable") as client:
        with pytest.raises(ModelUnusable, match="no such tensor"):
            async with asyncio.timeout(DEADLINE_S):
                await client.wait_ready()


async def test_requests_are_refused_before_ready() -> None:
    async with scripted_client() as client:
        with pytest.raises(EngineUnavailable, match="started"):
            client.submit(scripted_request("a", 1))
        await client.wait_ready()


async def test_one_request_may_fill_all_places_and_the_queue() -> None:
    async with scripted_client(max_num_waiting=3) as client:
        await client.wait_ready()
        num_choices = client.info.max_num_seqs + 3
        client.check_capacity(num_choices)
        with pytest.raises(QueueFull):
            client.check_capacity(num_choices + 1)
        for index in range(num_choices):
            client.submit(scripted_request(str(index), -2))


async def test_a_full_queue_refuses_at_admission() -> None:
    async with scripted_client(max_num_waiting=1) as client:
        await client.wait_ready()
        for name in ("a", "b"):  # fills the two places of max_num_seqs
            client.submit(scripted_request(name, -2))
        client.check_capacity(1)
        with pytest.raises(QueueFull):
            client.check_capacity(2)
        client.submit(scripted_request("c", -2))
        with pytest.raises(QueueFull):
            client.submit(scripted_request("d", -2))


async def test_prompt_tokens_that_wait_are_bounded_and_a_longer_prompt_is_taken_behind_none() -> None:
    async with scripted_client(max_num_waiting_tokens=10) as client:
        await client.wait_ready()
        longer = scripted_request("long", -6, *range(20))
        client.check_capacity(1, len(longer.prompt_ids))
        stream = client.submit(longer)
        assert client.status().num_waiting_tokens == 21
        with pytest.raises(QueueFull, match="21 prompt tokens wait, and this request has 1 or more; the limit is 10"):
            client.check_capacity(1)
        stream.abort(AbortReason.CLIENT_GONE)
        await until(lambda: client.status().num_open == 0)
        client.submit(scripted_request("a", -6, 1, 2, 3))
        client.submit(scripted_request("sibling", -6, 1, 2, 3), num_new_tokens=0)
        client.check_capacity(1, 6)
        with pytest.raises(QueueFull):
            client.check_capacity(1, 7)
        begun = client.submit(scripted_request("begun", -2, 1, 2, 3))
        await anext(aiter(begun))
        assert client.status().num_waiting_tokens == 4
