"""Predictions of the simulator beside measurements of a real server, on the same requests.

    .venv/bin/headrace simulate --synthetic --num-requests 1 --model MODEL.gguf --threads 1 --save-hardware here.json
    .venv/bin/python -m benchmarks.scheduling.prediction MODEL.gguf here.json --threads 1
    .venv/bin/python -m benchmarks.scheduling.prediction MODEL.gguf here.json --threads 1 --servers 2   # needs nginx
    .venv/bin/python -m benchmarks.scheduling.prediction MODEL.gguf --threads 1 --slo ttft=1s,tpot=50ms

Starts the server, or two behind nginx (deploy/fronts/nginx.conf, but taking requests in turn), puts three loads on it
(`headrace bench serve`), and plays the requests that it answered to the simulator, with the measured steps of the
file: at the times at which they were sent, or, with a limit of concurrency, each when one before it has ended. Rates
are shares of the rate that the simulator finds to be the most. Without a file, the server's own plan (`GET /v1/plan`)
is compared instead, which draws other requests of the same lengths: a request alone, and the largest load within the
limits of `--slo`; the first requests of users do not count. An error beyond 20 % (p50) or 30 % (p95) is marked.
Run it on a quiet machine; it prints the load of the machine at each measurement.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec

from benchmarks.servers import free_port, started
from engine.config import EngineConfig
from engine.simulation.planning.plan import LoadFigures, Plan
from engine.simulation.planning.search import LoadKind, Servers
from engine.simulation.results import Percentiles, SimulationResult, simulation_result
from engine.simulation.trace import TraceRequest, draw_trace
from server.commands.simulate.hardware import read_saved

_BARS = {"p50": 0.2, "p95": 0.3}
_BURST_RATE = 1e9
_START_S = 300.0
_ALONE = 20  # requests, for a plan's figures of one alone


@dataclass(frozen=True, slots=True)
class Load:
    """A load. share: of the largest rate; None: users, each of whom sends the next request when one has ended."""

    input_len: str
    output_len: str
    share: float | None = None
    num_users: int | None = None


LOADS = (
    Load("128", "64", share=0.5),
    Load("64:512", "16:128", share=0.8),
    Load("256", "96", num_users=4),
)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling.prediction", description=__doc__)
    parser.add_argument("model")
    parser.add_argument(
        "hardware", nargs="?", help="file of headrace simulate --save-hardware, for the same model and threads"
    )
    parser.add_argument("--slo", help="limits of the server's own plan, which is compared without a file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--servers", type=int, choices=(1, 2), default=1, help="default: 1")
    parser.add_argument("--num-requests", type=int, default=60, help="of each load (default: 60)")
    options = parser.parse_args(argv)
    if (options.slo is None) == (options.hardware is None):
        parser.error("give either a file of measured steps, or the limits of the server's own plan with --slo")
    command = f"headrace serve {options.model} --port {{port}} --threads {options.threads}"
    if options.slo is not None:
        if options.servers > 1:
            parser.error("--slo compares the plan of one server; leave --servers out")
        with started(command, free_port(), _START_S) as server:
            for seed, load in enumerate(LOADS, 1):
                _compare_plan(server.url, load, options.slo, options.num_requests, seed)
        return 0
    model = read_saved(options.hardware)
    _say(f"{model.model}: {model.origin} {model.source}; {options.servers} x")
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(started(command, free_port(), _START_S)).url for _ in range(options.servers)]
        url = stack.enter_context(_front(urls)) if len(urls) > 1 else urls[0]
        for seed, load in enumerate(LOADS, 1):
            _compare(url, Servers(model, EngineConfig(), options.servers), load, options.num_requests, seed)
    return 0


@contextlib.contextmanager
def _front(urls: Sequence[str]) -> Iterator[str]:
    """Run nginx in front of two servers; yields its URL."""
    text = (Path(__file__).parents[2] / "deploy" / "fronts" / "nginx.conf").read_text().replace("least_conn;", "")
    port = free_port()
    for ours, theirs in zip(
        (*urls, f"listen {port};"), ("127.0.0.1:8000", "127.0.0.1:8001", "listen 8080;"), strict=True
    ):
        text = text.replace(theirs, ours.removeprefix("http://"))
    with tempfile.TemporaryDirectory() as folder:
        around = f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off;\n{text}}}\n"
        (Path(folder) / "nginx.conf").write_text(around)
        with started(f"nginx -p {folder} -c {folder}/nginx.conf", port, _START_S) as front:
            yield front.url


def _compare(url: str, servers: Servers, load: Load, num_requests: int, seed: int) -> None:
    rate = None if load.share is None else load.share * _largest_rate(servers, load, num_requests)
    num_users = None if load.num_users is None else load.num_users * servers.replicas
    shown = f"{num_users} users" if rate is None else f"{rate:.3g} requests/s"
    options = ["--max-concurrency", str(num_users)] if rate is None else ["--request-rate", str(rate)]
    before, measured = os.getloadavg()[0], _measured(url, load, options, num_requests, seed)
    busy = f"load of the machine {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    _say(f"\nprompts of {load.input_len}, answers of {load.output_len} tokens, {shown}; {busy}")
    _print_figures(_simulated(servers, measured, num_users), measured)


def _print_figures(predicted: SimulationResult | LoadFigures, measured: list[dict[str, Any]]) -> None:
    _print_errors("first token", predicted.ttft_s, Percentiles.of(each["ttft_ms"] / 1e3 for each in measured))
    token_s = (each["tpot_ms"] / 1e3 for each in measured if each["tpot_ms"] is not None)
    _print_errors("each further token", predicted.token_s, Percentiles.of(token_s))


def _compare_plan(url: str, load: Load, slo: str, num_requests: int, seed: int) -> None:
    kind = {"rate": 1} if load.num_users is None else {"concurrency": 1}
    query = {"input": load.input_len, "output": load.output_len, "slo": slo, **kind}
    answer = httpx.get(f"{url}/v1/plan", params=query, timeout=_START_S, trust_env=False)
    if answer.is_error:
        raise SystemExit(answer.text)
    plan = msgspec.json.decode(answer.content, type=Plan)
    _say(f"\nprompts of {load.input_len}, answers of {load.output_len} tokens: {plan.limit}")
    trials = [(plan.alone, ["--max-concurrency", "1"], 1, _ALONE)]
    if plan.largest is not None:
        amount = plan.largest.amount
        is_rate = plan.kind is LoadKind.RATE
        options = ["--request-rate", str(amount)] if is_rate else ["--max-concurrency", str(int(amount))]
        trials.append((plan.largest, options, 0 if is_rate else int(amount), num_requests))
    for planned, options, num_first, count in trials:
        measured = _measured(url, load, options, num_first + count, seed)[num_first:]
        _say(f" {' '.join(options)}; load of the machine {os.getloadavg()[0]:.1f}")
        _print_figures(planned, measured)


def _largest_rate(servers: Servers, load: Load, num_requests: int) -> float:
    trace = draw_trace(
        rate=_BURST_RATE,
        num_requests=num_requests,
        input_len=load.input_len,
        output_len=load.output_len,
        prefix_len=0,
        num_prefixes=1,
        seed=0,
    )
    return num_requests / _played(servers, trace, None).duration_s


def _measured(url: str, load: Load, options: list[str], num_requests: int, seed: int) -> list[dict[str, Any]]:
    """Put a load on a server; return its requests, in the order in which they were sent. options: their times."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [str(Path(sys.executable).parent / "headrace"), "bench", "serve", "--url", url, "--json", str(path)]
        command += ["--input-len", load.input_len, "--output-len", load.output_len, "--seed", str(seed)]
        command += ["--num-prompts", str(num_requests), "--num-warmups", "2", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        requests: list[dict[str, Any]] = json.loads(path.read_text())["requests"]
    failed = [each["error"] for each in requests if each["error"] is not None]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(requests)} requests failed: {failed[0]}")
    return sorted(requests, key=lambda each: float(each["sent_s"]))


def _simulated(servers: Servers, measured: list[dict[str, Any]], num_users: int | None) -> SimulationResult:
    trace = [TraceRequest(each["sent_s"], each["prompt_tokens"], each["output_tokens"]) for each in measured]
    return _played(servers, trace, num_users)


def _played(servers: Servers, trace: list[TraceRequest], num_users: int | None) -> SimulationResult:
    fleet = servers.fleet()
    following = iter(trace[num_users:] if num_users is not None else [])

    def next_request(now_s: float) -> TraceRequest | None:
        request = next(following, None)
        return None if request is None else replace(request, arrival_s=now_s)

    return simulation_result(fleet, fleet.run(trace[:num_users], next_request), None)


def _print_errors(name: str, predicted: Percentiles | None, measured: Percentiles | None) -> None:
    assert predicted is not None
    assert measured is not None
    for rank, bar in _BARS.items():
        modeled_s, real_s = getattr(predicted, rank), getattr(measured, rank)
        error = modeled_s / real_s - 1
        mark = "" if abs(error) <= bar else f"  beyond {bar:.0%}"
        times = f"predicted {modeled_s * 1e3:8.1f} ms  measured {real_s * 1e3:8.1f} ms"
        _say(f"  {name:18} {rank}  {times}  {error:+.1%}{mark}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
