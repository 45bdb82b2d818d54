"""A line while there is something to tell, and none while the server is idle."""

import logging
import time

import pytest

from engine.protocol import StepStats
from server.commands.lifespan.activity_log import ActivityLog
from server.metrics.values import Metrics
from tests.helpers.fake_client import MODEL

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_an_idle_server_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    log = ActivityLog(Metrics(MODEL))
    log.log(time.monotonic() + 10)
    assert caplog.messages == []


def test_a_busy_one_tells_rates_since_the_last_look(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(MODEL)
    log = ActivityLog(metrics)
    now = time.monotonic()
    log.log(now)
    counts = {"prefill_tokens": 200, "batch_prefill_tokens": 100, "prefix_queries": 300, "prefix_hits": 100}
    metrics.on_step(StepStats(running=2, waiting=1, blocks_total=8, blocks_used=2, **counts))
    metrics.add("generation_tokens_total", 45)
    log.log(now + 10)
    assert caplog.messages == [
        "running 2, waiting 1, prompts 30.0 tokens/s, output 4.5 tokens/s, KV cache 25.0%, prefix hits 33.3%"
    ]
    assert vars(caplog.records[0])["fields"]["prefix_hit_rate"] == 0.3333


def test_the_last_line_comes_after_the_last_request(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(MODEL)
    log = ActivityLog(metrics)
    now = time.monotonic()
    log.log(now)
    metrics.add("generation_tokens_total", 5)
    log.log(now + 10)
    assert caplog.messages == [
        "running 0, waiting 0, prompts 0.0 tokens/s, output 0.5 tokens/s, KV cache 0.0%, prefix hits none looked up"
    ]
    log.log(now + 20)
    assert len(caplog.messages) == 1


def test_a_long_prompt_is_told_although_no_counter_moves(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(MODEL)
    log = ActivityLog(metrics)
    metrics.on_step(StepStats(running=1))
    for _ in range(2):
        log.log(time.monotonic())
    assert len(caplog.messages) == 2
