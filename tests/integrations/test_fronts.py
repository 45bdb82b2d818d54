"""Fronts before two servers, as deploy/fronts has them: one that is gone or drains loses no request, streams
pass, and prompts that begin alike go where their beginning is cached."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from engine.protocol import EngineRequest, FinishReason, RequestOutput
from engine.protocol.kv_events import POOL, BlockStored
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import BOS, MODEL, FakeClient, Step, says
from tests.helpers.http_serving import Served, serving
from tests.integrations.fronts import FOLDER, FRONTS, SMG, VLLM_ROUTER, Front, completion

pytestmark = pytest.mark.integrations


@contextlib.asynccontextmanager
async def two_servers(*clients: FakeClient) -> AsyncIterator[list[Served]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(client, metrics_alias="vllm")) for client in clients]


@pytest.fixture(params=FRONTS, ids=lambda front: front.name)
def front(request: pytest.FixtureRequest) -> Front:
    return request.param  # type: ignore[no-any-return]


def ports(servers: list[Served]) -> list[int]:
    return [served.port for served in servers]


async def test_an_event_of_a_stream_arrives_before_the_next_one_is_made(front: Front, tmp_path: Path) -> None:
    continues = asyncio.Event()

    def script(request: EngineRequest) -> list[Step]:
        last = RequestOutput(id=request.id, new_ids=[73], finish_reason=FinishReason.LENGTH)
        if not request.tokens_per_output or len(request.prompt_ids) < 10:
            return [last]
        return [RequestOutput(id=request.id, new_ids=[72]), continues, last]

    async with (
        two_servers(FakeClient(script), FakeClient(script)) as servers,
        front.running(tmp_path, ports(servers)) as client,
        client.stream("POST", "/v1/completions", json=completion("a long prompt", stream=True)) as answer,
        asyncio.timeout(DEADLINE_S),
    ):
        assert answer.status_code == 200, await answer.aread()
        lines = answer.aiter_lines()
        while '"H"' not in (await anext(lines)).replace(" ", ""):
            pass
        continues.set()
        assert '"I"' in "".join([line async for line in lines]).replace(" ", "")


async def test_a_server_that_is_gone_loses_no_request(front: Front, tmp_path: Path) -> None:
    """vllm-router alone passes it over only after its next check of the server, and answers 500 until then."""
    async with two_servers(FakeClient(says("x"))) as left, contextlib.AsyncExitStack() as rest:
        gone = await rest.enter_async_context(serving(FakeClient(says("x")), metrics_alias="vllm"))
        async with front.running(tmp_path, [left[0].port, gone.port]) as client:
            await rest.aclose()
            statuses: list[int] = []
            async with asyncio.timeout(DEADLINE_S):
                while statuses[-8:] != [200] * 8:
                    body = completion(f"{len(statuses)} x")
                    statuses.append((await client.post("/v1/completions", json=body)).status_code)
                    assert statuses[-1] == 200 or front is VLLM_ROUTER, statuses
                    await asyncio.sleep(0.01)


async def test_a_server_that_drains_is_passed_over(front: Front, tmp_path: Path) -> None:
    fakes = [FakeClient(says("x")), FakeClient(says("x"))]
    async with two_servers(*fakes) as servers, front.running(tmp_path, ports(servers)) as client:
        servers[0].context.drain.start(time.monotonic())
        before = len(fakes[0].streams)
        in_a_row = number = 0
        async with asyncio.timeout(DEADLINE_S):
            while in_a_row < 6:  # some have to ask for /ready first
                number += 1
                answer = await client.post("/v1/completions", json=completion(f"{number} x"))
                in_a_row = in_a_row + 1 if answer.status_code == 200 else 0
                await asyncio.sleep(0.01)
        assert len(fakes[0].streams) == before


@pytest.mark.parametrize("front", [SMG, VLLM_ROUTER], ids=lambda front: front.name)
async def test_prompts_that_begin_alike_go_to_one_server(front: Front, tmp_path: Path) -> None:
    fakes = [FakeClient(says("x")), FakeClient(says("x"))]
    tenants = [f"Tenant {number} has a prefix of its own, which is long. " * 2 for number in range(6)]
    async with two_servers(*fakes) as servers, front.running(tmp_path, ports(servers)) as client:
        for question in range(4):
            for tenant in tenants:
                answer = await client.post("/v1/completions", json=completion(f"{tenant}{question}"))
                assert answer.status_code == 200, answer.text
    served = defaultdict(set)
    for index, fake in enumerate(fakes):
        for stream in fake.streams:
            text = bytes(id for id in stream.request.prompt_ids if id < 256).decode()
            served[text[: len(tenants[0])]].add(index)
    assert [served[tenant] for tenant in tenants] == [{min(served[tenant])} for tenant in tenants]


async def test_smg_takes_the_server_for_a_vllm(tmp_path: Path) -> None:
    async with (
        two_servers(FakeClient(says("x")), FakeClient(says("x"))) as servers,
        SMG.running(tmp_path, ports(servers)) as client,
    ):
        workers = (await client.get("/workers")).json()["workers"]
    assert [worker["runtime_type"] for worker in workers] == ["vllm", "vllm"]
    assert all(worker["is_healthy"] for worker in workers)


async def test_vllm_router_credits_the_prefixes_in_events(tmp_path: Path) -> None:
    """A prompt goes to the server whose events say that its beginning is cached there, though it has been to none."""
    pytest.importorskip("zmq", reason="pyzmq is not installed (pip install 'headrace[events]')")
    from engine.kv_events.publisher import KVEventPublisher

    fakes = [FakeClient(says("x")), FakeClient(says("x"))]
    publishers = [KVEventPublisher("tcp://127.0.0.1:*", replay_address="tcp://127.0.0.1:*") for _ in fakes]
    prefixes = [f"{number}: {'a prefix of its own, ' * 4}"[:64] for number in range(8)]
    async with two_servers(*fakes) as servers:
        sources = [
            part
            for served, publisher in zip(servers, publishers, strict=True)
            for part in ("--kv-event-source", f"http://127.0.0.1:{served.port}={publisher.address}")
        ]
        policy = ("--policy", "kv_aware", "--kv-event-model", MODEL, "--kv-event-block-size", "16")
        async with VLLM_ROUTER.running(tmp_path, ports(servers), *policy, *sources) as client:
            for number, prefix in enumerate(prefixes):
                ids = [BOS, *prefix.encode()][:64]
                hashes = [number * 100 + block for block in range(4)]
                stored = BlockStored(
                    block_hashes=hashes,
                    parent_block_hash=None,
                    token_ids=ids,
                    block_size=16,
                    lora_id=None,
                    medium=POOL,
                    lora_name=None,
                )
                publishers[number % 2].publish([stored])
            expected = [[prefix for n, prefix in enumerate(prefixes) if n % 2 == index] for index in (0, 1)]

            async def sends_each_where_it_is_cached() -> bool:
                for fake in fakes:
                    fake.streams.clear()
                for prefix in prefixes:
                    await client.post("/v1/completions", json=completion(prefix + " and a question"))
                texts = [
                    [bytes(id for id in stream.request.prompt_ids if id < 256).decode()[:64] for stream in fake.streams]
                    for fake in fakes
                ]
                return texts == expected

            async with asyncio.timeout(DEADLINE_S):
                while not await sends_each_where_it_is_cached():
                    await asyncio.sleep(0.05)
    for publisher in publishers:
        publisher.close()


def test_what_no_program_here_can_check_is_yaml_of_the_documented_servers() -> None:
    """Envoy and the inference extension: their files parse, and name the ports and paths that servers have."""
    envoy = yaml.safe_load((FOLDER / "envoy.yaml").read_text())["static_resources"]
    (cluster,), (listener,) = envoy["clusters"], envoy["listeners"]
    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    addresses = [each["endpoint"]["address"]["socket_address"]["port_value"] for each in endpoints]
    assert addresses == [8000, 8001]
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/ready"
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (host,) = manager["route_config"]["virtual_hosts"]
    route = host["routes"][0]["route"]
    assert route["cluster"] == cluster["name"]
    assert route["retry_policy"]["retriable_status_codes"] == [503]
    pool = yaml.safe_load((FOLDER / "inference-pool.yaml").read_text())["inferencePool"]
    assert pool["targetPorts"] == [{"number": 8000}]
