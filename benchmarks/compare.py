"""Compare servers on one machine: put the same loads on each in turn (A B C, A B C, ...), and print ratios.

    .venv/bin/python -m benchmarks.compare --model model.gguf --rival llama-server --rounds 5 --scenario S1 S2

The loads come from `headrace bench serve` in a process of its own. benchmarks/README.md describes how to install
rivals, and the scenarios.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.chart import write_chart
from benchmarks.results import MeasuredServer, Results, machine_name
from benchmarks.rivals import NUM_SEQUENCES, RIVALS, rival_command, rival_version
from benchmarks.scenarios import SCENARIOS, Scenario, put_load
from benchmarks.servers import CompareError, Server, started
from benchmarks.tables import print_results
from engine.command_io.plotting import check_plotting
from engine.errors import StartupError

_ROOT = Path(__file__).parents[1]


def main() -> int:
    options = _parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that running servers are stopped too
    try:
        if options.plot is not None:
            check_plotting(options.plot)
        results = Results(
            title=options.title,
            date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            machine=machine_name(),
            servers=_servers(options),
        )
        try:
            _run(results, options)
        finally:  # what was measured is shown, however the comparison ends
            if results.runs:
                print_results(results)
        if options.plot is not None:
            write_chart([results], options.plot)
    except (CompareError, StartupError) as error:
        _say(f"compare: {error}")
        return 1
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=(__doc__ or "").partition("\n")[0])
    servers = parser.add_argument_group("servers")
    servers.add_argument("--model", help="what `headrace serve` is given, and rivals too without --rival-model")
    servers.add_argument("--args", default="", help="more flags for `headrace serve`")
    servers.add_argument("--a", metavar="COMMAND", help="first server in place of headrace; {port} is its port")
    servers.add_argument("--rival", action="append", default=[], choices=RIVALS, help="a rival; may be repeated")
    servers.add_argument(
        "--rival-model", action="append", default=[], metavar="MODEL", help="of each --rival in turn (default: --model)"
    )
    servers.add_argument("--rival-args", default="", help="more flags for every --rival")
    servers.add_argument(
        "--b", action="append", default=[], metavar="COMMAND", help="any other server; may be repeated"
    )
    servers.add_argument(
        "--rivals", type=Path, default=_ROOT / "rivals", metavar="FOLDER", help="their environments (default: rivals)"
    )
    servers.add_argument("--threads", type=int, default=os.cpu_count(), help="of each server (default: all cores)")
    servers.add_argument("--port", type=int, default=8950, help="of the first; others follow (default: 8950)")
    servers.add_argument("--start-timeout", type=float, default=600, metavar="S", help="seconds until ready")
    servers.add_argument(
        "--keep-started",
        action="store_true",
        help="start each server once, and freeze those whose turn it is not, in place of a start each round",
    )
    loads = parser.add_argument_group("loads")
    loads.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=["S1", "S2", "S3", "S4"])
    loads.add_argument("--rounds", type=int, default=5, help="times that each server is measured (default: 5)")
    loads.add_argument("--bench-args", default="", help="more flags for every `headrace bench serve`")
    output = parser.add_argument_group("output")
    output.add_argument("--title", default="", help="of the tables, such as the model's name")
    output.add_argument("--json", type=Path, metavar="FILE", help="results, written anew after every load")
    output.add_argument("--plot", metavar="FILE", help="picture of the ratios (PNG, SVG or PDF)")
    options = parser.parse_args()
    if options.a is None and options.model is None:
        parser.error("give --model, or the first server's whole command as --a")
    if not options.rival and not options.b:
        parser.error("give a --rival, or any server's command as --b")
    return options


def _servers(options: argparse.Namespace) -> list[MeasuredServer]:
    """Return the first server and its rivals, under distinct names. Raises CompareError if one is not installed."""
    if options.a is not None:
        servers = [MeasuredServer("A", options.a)]
    else:
        own = f"headrace serve {shlex.quote(options.model)} --port {{port}} --threads {options.threads}"
        servers = [
            MeasuredServer("headrace", f"{own} --max-num-seqs {NUM_SEQUENCES} {options.args}".rstrip(), _commit())
        ]
    for index, name in enumerate(options.rival):
        model = options.rival_model[index] if index < len(options.rival_model) else options.model
        if model is None:
            raise CompareError(f"no model for {name}; give --rival-model, or --model")
        command = rival_command(name, options.rivals, model, options.threads)
        times = sum(each.name.partition(" ")[0] == name for each in servers)
        title = name if not times else f"{name} {times + 1}"
        command = f"{command} {options.rival_args}".rstrip()
        servers.append(MeasuredServer(title, command, rival_version(name, options.rivals)))
    servers += [MeasuredServer(chr(ord("B") + index), command) for index, command in enumerate(options.b)]
    return servers


def _commit() -> str:
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return run.stdout.strip()


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _run(results: Results, options: argparse.Namespace) -> None:
    """Fill `results`, saving them after every load. Raises CompareError."""
    for number, server in enumerate(results.servers):
        _say(f"{server.name} {server.version}: {server.command}".replace("{port}", str(options.port + number)))
    if options.keep_started:
        _run_frozen(results, options)
    else:
        _run_restarted(results, options)


def _run_restarted(results: Results, options: argparse.Namespace) -> None:
    """Start each server again in every round, and run all scenarios on it."""
    for number in range(options.rounds):
        for index, measured in enumerate(results.servers):
            _say(f"round {number + 1} of {options.rounds}, {measured.name}")
            with started(measured.command, options.port + index, options.start_timeout) as server:
                measured.start_s.append(server.start_s)
                for name in options.scenario:
                    _measure(results, measured, server, SCENARIOS[name], number, options)
                measured.memory_mb.append(server.memory_mb())
                _save(results, options)


def _run_frozen(results: Results, options: argparse.Namespace) -> None:
    """Start each server once; in every scenario of every round one server runs while the others are frozen."""
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []
        freezers: list[contextlib.ExitStack] = []
        for index, measured in enumerate(results.servers):
            server = stack.enter_context(started(measured.command, options.port + index, options.start_timeout))
            measured.start_s.append(server.start_s)
            freezer = stack.enter_context(contextlib.ExitStack())
            freezer.enter_context(server.frozen())
            servers.append(server)
            freezers.append(freezer)
        for number in range(options.rounds):
            for name in options.scenario:
                _say(f"round {number + 1} of {options.rounds}, {name}")
                for measured, server, freezer in zip(results.servers, servers, freezers, strict=True):
                    freezer.close()  # its turn
                    _measure(results, measured, server, SCENARIOS[name], number, options)
                    freezer.enter_context(server.frozen())
            for measured, server in zip(results.servers, servers, strict=True):
                measured.memory_mb.append(server.memory_mb())
            _save(results, options)


def _measure(
    results: Results,
    measured: MeasuredServer,
    server: Server,
    scenario: Scenario,
    number: int,
    options: argparse.Namespace,
) -> None:
    """Run one load, the same for all servers of a round, and add it to `results`.

    Raises CompareError if a request failed.
    """
    # Each scenario has its own seeds, so that it does not find another's prompts in a cache.
    seed = number * 100 + list(SCENARIOS).index(scenario.name) + 1
    result = put_load(scenario, server.url, f"--seed {seed} {options.bench_args}", measured.name)
    results.add(scenario, measured, result)
    _save(results, options)
    shown = ", ".join(f"{metric.name} {metric.of(result):,.1f}" for metric in scenario.metrics)
    _say(f"  {scenario.name} {measured.name}: {shown}")


def _save(results: Results, options: argparse.Namespace) -> None:
    if options.json is not None:
        results.save(options.json)


if __name__ == "__main__":
    sys.exit(main())
