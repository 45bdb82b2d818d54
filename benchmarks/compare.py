"""Compare two servers on one machine: start each in turn (A B A B ...), put the same loads on both, print ratios.

    .venv/bin/python benchmarks/compare.py --pairs 5 --scenario S1 S2 \\
        --a 'headrace serve model.gguf --port {port}' --b 'llama-server -m model.gguf --port {port} -np 8 -c 16384'

The loads are those of `headrace bench serve`, run as a process of its own. benchmarks/README.md has the commands of
several rivals, and what each scenario is.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich import box
from rich.console import Console
from rich.table import Table

_HERE = Path(__file__).parent
_STOP_TIMEOUT_S = 60
_POLL_S = 0.1

Result = dict[str, Any]  # what `headrace bench serve --json` writes
Runs = dict[str, dict[str, list[Result]]]  # scenario -> side -> one result a pair


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    of: Callable[[Result], float]
    less_is_better: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    flags: str
    metrics: tuple[Metric, ...]


def _summary(name: str, path: str, *, less_is_better: bool) -> Metric:
    """A metric that stands in the summary under `path`, such as ttft_ms.p50."""

    def of(result: Result) -> float:
        value: Any = result["summary"]
        for key in path.split("."):
            value = value[key]
        return float(value)

    return Metric(name, of, less_is_better)


def _prefill_rate(result: Result) -> float:
    return float(result["summary"]["prompt_tokens"] / result["summary"]["ttft_ms"]["mean"] * 1e3)


_TTFT = _summary("TTFT p50, ms", "ttft_ms.p50", less_is_better=True)
_TPOT = _summary("TPOT p50, ms", "tpot_ms.p50", less_is_better=True)
_OUTPUT_RATE = _summary("output tokens/s", "output_throughput", less_is_better=False)

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "S1",
            "one stream, 128 tokens in, 128 out",
            "--num-prompts 3 --max-concurrency 1 --input-len 128 --output-len 128",
            (_TPOT, _TTFT),
        ),
        Scenario(
            "S2",
            "8 streams, 64-512 tokens in, 32-256 out, 32 requests",
            "--num-prompts 32 --max-concurrency 8 --input-len 64:512 --output-len 32:256",
            (
                _OUTPUT_RATE,
                _TTFT,
                _summary("TTFT p90, ms", "ttft_ms.p90", less_is_better=True),
                _TPOT,
                _summary("TPOT p90, ms", "tpot_ms.p90", less_is_better=True),
            ),
        ),
        Scenario(
            "S3",
            "4 streams, 24 requests on one prefix of 1,500 tokens, 30 more in, 32 out",
            "--num-prompts 24 --max-concurrency 4 --prefix-len 1500 --input-len 30 --output-len 32",
            (_summary("total, s", "duration_s", less_is_better=True), _OUTPUT_RATE, _TTFT),
        ),
        Scenario(
            "S4",
            "one prompt of 2,000 tokens, 16 out",
            "--num-prompts 1 --input-len 2000 --output-len 16",
            (Metric("prefill tokens/s", _prefill_rate, less_is_better=False), _TPOT),
        ),
        Scenario(
            "S5",
            "chat that repeats code with a small change, one stream, 128 out",
            "--num-prompts 4 --max-concurrency 1 --endpoint chat --dataset-path benchmarks/rewriting.jsonl",
            (_TPOT, _OUTPUT_RATE),
        ),
    )
}


class CompareError(Exception):
    """What ends the comparison; its text is for the user."""


def main() -> int:
    options = _parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the running server is stopped too
    scenarios = [SCENARIOS[name] for name in options.scenario]
    runs: Runs = {scenario.name: {"a": [], "b": []} for scenario in scenarios}
    servers: dict[str, list[dict[str, float]]] = {"a": [], "b": []}
    try:
        for pair in range(options.pairs):
            for side in ("a", "b"):
                _say(f"pair {pair + 1} of {options.pairs}, {side}: {getattr(options, side)}")
                with _server(getattr(options, side), options.port, options.start_timeout) as (start_s, process):
                    for scenario in scenarios:
                        runs[scenario.name][side].append(_measure(scenario, options, pair))
                    servers[side].append({"start_s": start_s, "memory_mb": _memory_mb(process.pid)})
    except CompareError as error:
        _say(f"compare: {error}")
        return 1
    _print_tables(scenarios, runs, servers, options)
    if options.json is not None:
        result = {"options": vars(options), "servers": servers, "runs": runs}
        Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--a", required=True, metavar="COMMAND", help="first server; {port} stands for its port")
    parser.add_argument("--b", required=True, metavar="COMMAND", help="second server")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=["S1", "S2", "S3", "S4"])
    parser.add_argument("--pairs", type=int, default=5, help="times that each server is measured (default: 5)")
    parser.add_argument("--port", type=int, default=8950, help="port for both, one after the other (default: 8950)")
    parser.add_argument("--start-timeout", type=float, default=600, metavar="S", help="seconds until ready")
    parser.add_argument("--bench-args", default="", help="more flags for every `headrace bench serve`")
    parser.add_argument("--json", metavar="FILE", help="write every run's results")
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@contextlib.contextmanager
def _server(command: str, port: int, start_timeout_s: float) -> Iterator[tuple[float, subprocess.Popen[bytes]]]:
    """Run `command` until the block ends: (seconds until it answered, its process). Leaving waits until it is gone."""
    arguments = shlex.split(command.replace("{port}", str(port)))
    # `headrace` of this environment is found by name, whether the environment is active or not.
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    with tempfile.TemporaryFile() as log:
        began_s = time.monotonic()
        try:
            process = subprocess.Popen(arguments, stdout=log, stderr=log, env=environ)
        except OSError as error:
            raise CompareError(f"cannot start {arguments[0]}: {error.strerror}") from error
        try:
            try:
                _wait_until_ready(process, f"http://127.0.0.1:{port}", began_s + start_timeout_s)
            except CompareError as error:
                log.seek(0)
                tail = log.read().decode(errors="replace")[-2000:]
                raise CompareError(f"{command}\n{error}; the end of its output:\n{tail}") from error
            yield time.monotonic() - began_s, process
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, deadline_s: float) -> None:
    """Return once /health is 200 (or unknown) and a completion is answered: some servers are healthy before."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        while True:
            if process.poll() is not None:
                raise CompareError(f"it exited with {process.returncode} before it was ready")
            if time.monotonic() > deadline_s:
                raise CompareError("it was not ready in time; raise --start-timeout")
            with contextlib.suppress(httpx.HTTPError):
                if http.get("/health").status_code in (200, 404) and _answers(http):
                    return
            time.sleep(_POLL_S)


def _answers(http: httpx.Client) -> bool:
    models = http.get("/v1/models")
    if models.status_code != 200 or not models.json()["data"]:
        return False
    body = {"model": models.json()["data"][0]["id"], "prompt": "ready?", "max_tokens": 1}
    return http.post("/v1/completions", json=body).status_code == 200


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the server, and return when it and every process that it started are gone."""
    family = _family(process.pid)
    deadline_s = time.monotonic() + _STOP_TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    while process.poll() is None or any(_status(pid) is not None for pid in family):
        if time.monotonic() > deadline_s:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _status(pid: int) -> dict[str, str] | None:
    """The fields of /proc/PID/status; None if there is no such process, or only its exit code is left of it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return None if fields["State"].startswith("Z") else fields


def _family(pid: int) -> set[int]:
    """The process and all that descend from it."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    parents = {each: int(status["PPid"]) for each in pids if (status := _status(each)) is not None}
    family = {pid}
    while children := {each for each, parent in parents.items() if parent in family} - family:
        family |= children
    return family


def _memory_mb(pid: int) -> float:
    """Memory of a process and its descendants in MB; a page that several share is counted once."""
    total_kb = 0
    for each in _family(pid):
        lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        total_kb += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total_kb * 1024 / 1e6


def _measure(scenario: Scenario, options: argparse.Namespace, pair: int) -> Result:
    """One load; both servers of a pair get the same. Raises CompareError if a request failed."""
    # Scenarios must not find each other's prompts in a cache, so each has seeds of its own.
    seed = pair * 100 + int(scenario.name[1:])
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        flags = f"--url http://127.0.0.1:{options.port} --seed {seed} {scenario.flags} {options.bench_args}"
        command = [sys.executable, "-m", "server.cli", "bench", "serve", *shlex.split(flags), "--json", file.name]
        run = subprocess.run(command, cwd=_HERE.parent, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise CompareError(f"{scenario.name} failed:\n{run.stdout}{run.stderr}")
        result: Result = json.loads(Path(file.name).read_text())
    shown = ", ".join(f"{metric.name} {metric.of(result):,.1f}" for metric in scenario.metrics)
    _say(f"  {scenario.name}: {shown}")
    return result


def _print_tables(
    scenarios: list[Scenario], runs: Runs, servers: dict[str, list[dict[str, float]]], options: argparse.Namespace
) -> None:
    console = Console(width=max(100, Console().width))
    console.print(f"A: {options.a}\nB: {options.b}", markup=False, highlight=False)
    console.print(f"{options.pairs} pairs; medians (lowest-highest). A ratio above 1 means that A is ahead.")
    for scenario in scenarios:
        rows = [
            (metric, *([metric.of(result) for result in runs[scenario.name][side]] for side in ("a", "b")))
            for metric in scenario.metrics
        ]
        console.print(_table(f"{scenario.name}: {scenario.title}", rows))
    fields = (("start, s", "start_s"), ("memory, MB", "memory_mb"))
    rows = [
        (
            Metric(name, lambda _: 0.0, less_is_better=True),
            *([each[field] for each in servers[side]] for side in ("a", "b")),
        )
        for name, field in fields
    ]
    console.print(_table("servers", rows))


def _table(title: str, rows: list[tuple[Metric, list[float], list[float]]]) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    table.add_column("")
    for column in ("A", "B", "ratio"):
        table.add_column(column, justify="right")
    for metric, of_a, of_b in rows:
        ratios = pair_ratios(of_a, of_b, less_is_better=metric.less_is_better)
        table.add_row(metric.name, show_spread(of_a), show_spread(of_b), show_spread(ratios, digits=2))
    return table


def pair_ratios(of_a: list[float], of_b: list[float], *, less_is_better: bool) -> list[float]:
    """How far A is ahead in each pair: 2 is twice as good, whichever way the metric runs."""
    return [b / a if less_is_better else a / b for a, b in zip(of_a, of_b, strict=True)]


def show_spread(values: list[float], digits: int = 1) -> str:
    low, middle, high = (f"{each:,.{digits}f}" for each in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}-{high})"


if __name__ == "__main__":
    sys.exit(main())
