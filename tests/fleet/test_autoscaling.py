"""A fleet that takes a second replica under load and gives it back, without a lost request.

Run by `make test-fleet`, which installs Ray Serve; skipped where it is not installed.
"""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.fleet.conftest import REPLICA_PORT, START_TIMEOUT_S, started_fleet, stream_until

_BOUNDS = ("--min-replicas", "1", "--max-replicas", "2")
_DELAYS = ("--upscale-delay", "1", "--downscale-delay", "2")
_REPORTS = {"RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}  # seconds; Ray averages 30 s of them


def wait_until_both_run_requests() -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while not all(is_running_a_request(port) for port in (REPLICA_PORT, REPLICA_PORT + 1)):
        assert time.monotonic() < end_s, "only one replica gets requests"
        time.sleep(0.2)


def is_running_a_request(port: int) -> bool:
    try:
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    except httpx.HTTPError:  # it does not listen yet
        return False
    return re.search(r"^headrace_num_requests_running\S* [1-9]", metrics, re.MULTILINE) is not None


def test_no_request_is_lost_when_replicas_come_and_go(tmp_path: Path, model_folder: Path) -> None:
    options = (str(model_folder), "--max-num-seqs", "2", *_BOUNDS, *_DELAYS)
    with started_fleet(tmp_path, *options, **_REPORTS) as fleet, ThreadPoolExecutor(7) as threads:
        fleet.wait_for_replicas(1)
        load_ended, all_ended = threading.Event(), threading.Event()
        streams = [threads.submit(stream_until, load_ended, fleet.url) for _ in range(6)]
        streams.append(threads.submit(stream_until, all_ended, fleet.url))
        try:
            fleet.wait_for_replicas(2)
            wait_until_both_run_requests()
            load_ended.set()
            fleet.wait_for_replicas(1)
        finally:
            load_ended.set()
            all_ended.set()
        assert [failure for each in streams for failure in each.result(180)] == []
