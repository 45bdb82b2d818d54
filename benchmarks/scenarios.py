"""Loads for the comparison of servers, and their metrics."""

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.servers import CompareError

_ROOT = Path(__file__).parents[1]

Result = dict[str, Any]  # the JSON of `headrace bench serve --json`


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    of: Callable[[Result], float]
    less_is_better: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load. flags: of `headrace bench serve`. The first metric is the main one."""

    name: str
    title: str
    flags: str
    metrics: tuple[Metric, ...]


def _summary(name: str, path: str, *, less_is_better: bool) -> Metric:
    """Return the metric under `path` in the summary, such as ttft_ms.p50."""

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

_REWRITING = "--num-prompts 4 --max-concurrency 1 --endpoint chat --dataset-path benchmarks/rewriting.jsonl"

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
            _REWRITING,
            (_TPOT, _OUTPUT_RATE),
        ),
        Scenario("S5P", "the same with the code as `prediction`", f"{_REWRITING} --predictions", (_TPOT, _OUTPUT_RATE)),
    )
}


def put_load(scenario: Scenario, url: str, more_flags: str, name: str) -> Result:
    """Run the scenario's load on the server at `url`.

    Raises CompareError, with the server's name, if a request failed.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        flags = shlex.split(f"--url {url} {scenario.flags} {more_flags}")
        command = [sys.executable, "-m", "server.cli", "bench", "serve", *flags, "--json", file.name]
        run = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise CompareError(f"{scenario.name} of {name} failed:\n{run.stdout}{run.stderr}")
        result: Result = json.loads(Path(file.name).read_text())
    return result
