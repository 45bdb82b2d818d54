"""benchmarks/compare.py: ratios, and a whole comparison of two small servers."""

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compare

ROOT = Path(__file__).parents[2]


def test_a_ratio_above_one_means_that_a_is_ahead() -> None:
    assert compare.pair_ratios([10.0, 20.0], [20.0, 20.0], less_is_better=True) == [2.0, 1.0]
    assert compare.pair_ratios([30.0], [10.0], less_is_better=False) == [3.0]
    assert compare.show_spread([3.0, 1.0, 2.0], digits=2) == "2.00 (1.00-3.00)"


def test_metrics_read_a_result() -> None:
    summary = {"prompt_tokens": 2000, "ttft_ms": {"mean": 500.0, "p50": 450.0}, "duration_s": 3.0}
    result = {"summary": summary}
    metrics = {metric.name: metric for scenario in compare.SCENARIOS.values() for metric in scenario.metrics}
    assert metrics["prefill tokens/s"].of(result) == pytest.approx(4000)
    assert metrics["TTFT p50, ms"].of(result) == 450.0
    assert metrics["total, s"].of(result) == 3.0


def test_two_servers_take_turns_on_the_same_load(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free_port: int,
) -> None:
    command = f"{shlex.quote(sys.executable)} -m tests.helpers.fake_openai {{port}}"
    file = tmp_path / "out.json"
    arguments = ["--a", command, "--b", command, "--pairs", "1", "--scenario", "S1", "--port", str(free_port)]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments, "--json", str(file)])
    assert compare.main() == 0
    shown = capsys.readouterr()
    assert "S1: one stream, 128 tokens in, 128 out" in shown.out
    assert shown.err.index("1 of 1, a") < shown.err.index("1 of 1, b")
    runs = json.loads(file.read_text())["runs"]["S1"]
    (of_a,), (of_b,) = runs["a"], runs["b"]
    assert of_a["summary"]["output_tokens"] == of_b["summary"]["output_tokens"] == 3 * 128
    assert {**of_a["config"], "json": ""} == {**of_b["config"], "json": ""}


def test_stopping_ends_processes_in_sessions_of_their_own() -> None:
    parent = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
try:
    print("started", flush=True)
    child.wait()
finally:
    child.kill()
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    family = compare._family(process.pid)
    assert len(family) == 2
    assert compare._memory_mb(process.pid) > 1
    compare._stop(process)
    assert [compare._status(pid) for pid in family] == [None, None]


def test_a_server_that_does_not_start_is_quoted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    command = f"{shlex.quote(sys.executable)} -c 'raise SystemExit(\"no such model\")'"
    monkeypatch.setattr(sys, "argv", ["compare.py", "--a", command, "--b", command, "--port", str(free_port)])
    assert compare.main() == 1
    error = capsys.readouterr().err
    assert "exited with 1 before it was ready" in error
    assert "no such model" in error


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
