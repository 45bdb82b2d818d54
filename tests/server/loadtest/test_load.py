"""The load generator against a small server that streams as OpenAI's does, over a real socket."""

import asyncio
from typing import Any

import pytest

from engine.errors import StartupError
from server import cli
from server.loadtest.client import LineSplitter, LoadClient
from server.loadtest.config import LoadConfig, LoadEndpoint
from server.loadtest.load import LoadRun, run_load
from server.loadtest.workload import TextScale, Workload
from tests.helpers.fake_openai import FakeServer, serving

pytestmark = pytest.mark.fast


async def run_against(fake: FakeServer, api_key: str | None = None, **options: Any) -> LoadRun:
    async with serving(fake) as url:
        config = LoadConfig(url=url, **options)
        async with LoadClient(config, api_key) as client:
            await client.find_model()
            conversations = Workload(config).conversations(TextScale())
            return await run_load(client, conversations, config, lambda _: None)


async def test_tokens_are_counted_from_usage_and_not_from_chunks() -> None:
    load = await run_against(FakeServer(cached_tokens=3), num_prompts=2, input_len="40", output_len="10")
    assert [trace.error for trace in load.traces] == [None, None]
    assert [(trace.prompt_tokens, trace.output_tokens, trace.cached_tokens) for trace in load.traces] == [
        (40, 10, 3)
    ] * 2
    assert [len(trace.text_s) for trace in load.traces] == [4, 4]  # 10 tokens, three to a chunk
    assert load.traces[0].text == " w0 w1 w2 w3"


async def test_times_are_those_of_the_stream() -> None:
    load = await run_against(FakeServer(delay_s=0.05), num_prompts=1, output_len="9")
    (trace,) = load.traces
    assert trace.ttft_ms >= 50
    assert trace.e2el_ms >= 150
    assert len(trace.itl_ms) == 2
    assert trace.tpot_ms == pytest.approx((trace.e2el_ms - trace.ttft_ms) / 8)
    assert load.duration_s >= 0.15


async def test_chat_does_not_take_the_role_for_a_token() -> None:
    fake = FakeServer(delay_s=0.05)
    load = await run_against(fake, num_prompts=1, output_len="3", endpoint=LoadEndpoint.CHAT)
    (trace,) = load.traces
    assert trace.ttft_ms >= 50
    assert len(trace.text_s) == 1
    assert fake.bodies[0]["messages"][0]["role"] == "user"


async def test_a_prediction_goes_into_the_body() -> None:
    fake = FakeServer()
    dataset = {"dataset_path": "benchmarks/rewriting.jsonl", "num_prompts": 4, "predictions": True}
    await run_against(fake, endpoint=LoadEndpoint.CHAT, **dataset)
    assert len(fake.bodies) == 4
    for body in fake.bodies:
        prediction, prompt = body["prediction"], body["messages"][0]["content"]
        assert prediction["type"] == "content"
        assert prediction["content"] in prompt


async def test_the_body_asks_for_what_the_options_say() -> None:
    fake = FakeServer()
    await run_against(
        fake,
        api_key="secret",
        num_prompts=1,
        input_len="5",
        output_len="7",
        temperature=0.5,
        extra_body='{"top_k": 3, "cache_prompt": false}',
    )
    (body,) = fake.bodies
    prompt = body.pop("prompt")
    assert len(prompt) == 5
    assert body == {
        "model": "fake/model",
        "max_tokens": 7,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "top_k": 3,
        "cache_prompt": False,
    }
    assert fake.headers[0]["authorization"] == "Bearer secret"


async def test_each_request_has_a_connection_of_its_own() -> None:
    fake = FakeServer()
    await run_against(fake, num_prompts=3, output_len="3", max_concurrency=1)
    assert len(set(fake.clients)) == 3


@pytest.mark.parametrize(("limit", "most_open"), [(1, 1), (3, 3), (None, 8)])
async def test_concurrency_is_reached_and_not_exceeded(limit: int | None, most_open: int) -> None:
    fake = FakeServer(num_together=most_open)
    await run_against(fake, num_prompts=8, output_len="6", max_concurrency=limit)
    assert fake.most_open == most_open
    assert len(fake.bodies) == 8


async def test_a_rate_spreads_the_requests() -> None:
    load = await run_against(FakeServer(), num_prompts=10, output_len="3", request_rate=50.0, seed=1)
    sent_s = sorted(trace.sent_s for trace in load.traces)
    assert sent_s[-1] - sent_s[0] > 0.05


async def test_conversations_repeat_what_was_said() -> None:
    fake = FakeServer()
    await run_against(fake, num_prompts=1, num_turns=3, input_len="4", output_len="6", endpoint=LoadEndpoint.CHAT)
    last = fake.bodies[-1]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
    assert last[1]["content"] == " w0 w1"
    assert fake.bodies[0]["messages"] == last[:1]


async def test_turns_of_completions_extend_one_text() -> None:
    fake = FakeServer()
    await run_against(fake, num_prompts=1, num_turns=2, input_len="4", output_len="6")
    first, second = (body["prompt"] for body in fake.bodies)
    assert second.startswith(f"{first} w0 w1\n")
    assert len(second) > len(first) + 10


@pytest.mark.parametrize(
    ("fail", "error"),
    [
        ("status", "HTTP 429: the queue is full"),
        ("event", "the engine died"),
        ("no usage", "the stream ended without a choice, or without the usage that counts its tokens"),
    ],
)
async def test_failures_are_kept_with_their_reason(fail: str, error: str) -> None:
    load = await run_against(FakeServer(fail=fail), num_prompts=2, output_len="9")
    assert [trace.error for trace in load.traces] == [error, error]


async def test_a_failed_turn_ends_its_conversation() -> None:
    fake = FakeServer(fail="status")
    load = await run_against(fake, num_prompts=1, num_turns=5)
    assert len(load.traces) == len(fake.bodies) == 1


async def test_a_request_that_takes_too_long_has_failed() -> None:
    load = await run_against(FakeServer(delay_s=30), num_prompts=1, timeout=0.2)
    assert load.traces[0].error == "not finished after 0.2 s"


async def test_a_server_that_is_not_there_is_named() -> None:
    async with LoadClient(LoadConfig(url="http://127.0.0.1:9"), None) as client:
        with pytest.raises(StartupError, match=r"http://127\.0\.0\.1:9 does not list its models: .*; check --url"):
            await client.find_model()


def test_lines_are_put_together_from_any_cut() -> None:
    lines = LineSplitter()
    assert lines.feed(b"data: a") == []
    assert lines.feed(b"b\n\nda") == [b"data: ab", b""]
    assert lines.feed(b"ta: c\n") == [b"data: c"]


async def test_failed_requests_make_the_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(FakeServer(fail="event")) as url:
        arguments = ["bench", "serve", "--url", url, "--num-prompts", "2", "--num-warmups", "0"]
        assert await asyncio.to_thread(cli.main, arguments) == 1
    assert "2 x the engine died" in capsys.readouterr().out


async def test_a_failed_warm_up_stops_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(FakeServer(fail="status")) as url:
        assert await asyncio.to_thread(cli.main, ["bench", "serve", "--url", url]) == 1
    assert "nothing was measured: HTTP 429: the queue is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "no benchmark given"),
        ("speed", "there is no benchmark 'speed'; did you mean spec?"),
        ("serve --num-prompt 3", "unknown option --num-prompt; did you mean --num-prompts?"),
        ("serve model", "unexpected argument model"),
        ("serve --num-prompts 0", "--num-prompts is '0'; it must be a whole number, at least 1"),
        ("serve --input-len 5:2", "--input-len is '5:2'; it must be a length"),
        ("serve --goodput ttft:nan", "--goodput is 'ttft:nan'; it must be NAME:MS"),
        ("serve --json /nowhere/out.json", "--json is /nowhere/out.json; its folder does not exist"),
        ("latency a --model b", "the model is given twice: a and --model b"),
        ("latency --port 3", "unknown option --port"),
        ("latency --batch-size 4 x", "--batch-size is 'x'"),
    ],
)
def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    assert cli.main(["bench", *arguments.split()]) == 2
    assert message in capsys.readouterr().err
