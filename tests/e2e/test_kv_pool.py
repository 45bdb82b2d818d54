"""The KV pool under pressure, and prompts that share a prefix: counted from the server's own metrics."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_concurrency import PROMPTS, is_at_rest
from tests.helpers.deadline import wait_until
from tests.helpers.server_process import ServerProcess

# 16 blocks of 16 tokens: K and V of 30 layers, 3 heads of 64, in fp32.
SIXTEEN_BLOCKS = 16 * 16 * 2 * 30 * 3 * 64 * 4
PREFIX_TOKENS = 1000
NUM_CLIENTS = 4


def _complete(client: httpx.Client, prompt: str | list[int], max_tokens: int) -> str:
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    response = client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def test_a_pool_of_16_blocks_serves_32_requests_with_unchanged_texts(server: ServerProcess, tmp_path: Path) -> None:
    with server.client() as client, ThreadPoolExecutor(len(PROMPTS)) as pool:
        unloaded = list(pool.map(lambda prompt: _complete(client, prompt, 14), PROMPTS))
    options = ("--dtype", "float32", "--kv-cache-memory-bytes", str(SIXTEEN_BLOCKS), "--check-invariants")
    with ServerProcess(tmp_path / "log", *options, "--max-num-batched-tokens", "256") as small:
        small.wait_ready()
        wait_until(lambda: "16 blocks of 16 tokens" in small.log, "the server says how large its pool is")
        with small.client() as client, ThreadPoolExecutor(len(PROMPTS)) as pool:
            loaded = list(pool.map(lambda prompt: _complete(client, prompt, 14), PROMPTS))
        preemptions = small.metric("headrace_num_preemptions_total")
        wait_until(lambda: is_at_rest(small), "all gauges are 0 after the last answer")
    print(f"\n16 blocks, 32 requests: {preemptions:.0f} preemptions")  # noqa: T201 - a figure for docs/reliability.md
    assert loaded == unloaded
    assert preemptions > 0


def test_clients_with_one_new_prefix_cost_one_prefill_of_it(server: ServerProcess) -> None:
    prefix = [1000 + (7919 * position) % 40_000 for position in range(PREFIX_TOKENS)]
    tails = [[2000 + tail, 3000 + tail, 4000 + tail] for tail in range(NUM_CLIENTS)]
    computed = server.metric("headrace_iteration_tokens_total_sum")
    with server.client() as client, ThreadPoolExecutor(NUM_CLIENTS) as pool:
        together = list(pool.map(lambda tail: _complete(client, prefix + tail, 4), tails))
        computed = server.metric("headrace_iteration_tokens_total_sum") - computed
        alone = [_complete(client, prefix + tail, 4) for tail in tails]
    print(f"\n{NUM_CLIENTS} clients, one prefix of {PREFIX_TOKENS} tokens: {computed:.0f} tokens computed")  # noqa: T201
    assert together == alone
    # Beyond the prefix each client computes less than one block of it again, its tail and its output.
    own = 16 + len(tails[0]) + 4
    assert computed == pytest.approx(PREFIX_TOKENS, abs=NUM_CLIENTS * own)
