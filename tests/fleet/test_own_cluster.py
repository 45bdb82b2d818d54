"""A fleet of one replica in its command's own cluster: an update starts the next replica before it stops the first.

Run by `make test-fleet`, which installs Ray Serve; skipped where it is not installed.
"""

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.fleet.conftest import MODEL, OPTIONS, headrace, started_fleet, stream_until, wait_logged


def test_an_update_of_one_replica_loses_no_request(tmp_path: Path, model_folder: Path) -> None:
    with started_fleet(tmp_path, str(model_folder)) as fleet, ThreadPoolExecutor(2) as threads:
        ended = threading.Event()
        asking = [threads.submit(stream_until, ended, fleet.url) for _ in range(2)]
        try:
            log = tmp_path / "second"
            names = ("--served-model-name", MODEL, "--served-model-name", "renewed")
            command = headrace("fleet", str(model_folder), *names, *OPTIONS, *fleet.cluster())
            with log.open("wb") as file:
                second = subprocess.Popen(command, stderr=file)
            wait_logged("ready at", log, second)
        finally:
            ended.set()
        assert [failure for each in asking for failure in each.result(180)] == []
        body = {"model": "renewed", "prompt": "a", "max_tokens": 2}
        assert httpx.post(f"{fleet.url}/v1/completions", json=body, timeout=60).status_code == 200
        subprocess.run(headrace("fleet", "stop", *fleet.cluster()), check=True, timeout=180)
        assert fleet.process.wait(60) == 0
        assert second.wait(60) == 0
