"""`headrace batch` with a real engine: killed, and run again, it has answered each line once."""

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.conftest import FAST_START

DEADLINE_S = 120.0
NUM_LINES = 24


def _command(folder: Path) -> list[str]:
    model = ("--model", "demo", *FAST_START[:4])
    return [sys.executable, "-m", "server.cli", "batch", str(folder / "in"), str(folder / "out"), *model]


def test_a_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    bodies = [{"prompt": f"{number} is", "max_tokens": 30, "ignore_eos": True} for number in range(NUM_LINES)]
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}
        for number, body in enumerate(bodies)
    ]
    (tmp_path / "in").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out"
    with subprocess.Popen([*_command(tmp_path), "--max-num-seqs", "2"], stderr=subprocess.DEVNULL) as first:
        began_s = time.monotonic()
        while first.poll() is None and not (out.exists() and out.stat().st_size):
            assert time.monotonic() - began_s < DEADLINE_S, "no line is answered"
            time.sleep(0.02)
        first.kill()
    num_before = out.read_bytes().count(b"\n")
    second = subprocess.run(_command(tmp_path), capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert second.returncode == 0, second.stderr
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(int(answer["custom_id"]) for answer in answers) == list(range(NUM_LINES))
    assert all(answer["response"]["body"]["usage"]["completion_tokens"] == 30 for answer in answers)
    assert 0 < num_before <= NUM_LINES
    assert num_before == NUM_LINES or "going on with the others" in second.stderr
