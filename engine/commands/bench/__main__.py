"""`python -m engine.commands.bench NAME JOB`: the process behind `headrace bench` latency, throughput, roofline, spec.

JOB is JSON: a list of the EngineConfig and the benchmark's own options.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console, RenderableType

from engine.child_processes.lifetime import end_with_parent, exit_on_sigterm
from engine.command_io.bench_config import (
    BENCH_CONFIGS,
    BenchConfig,
    LatencyConfig,
    RooflineConfig,
    SpeculationConfig,
    ThroughputConfig,
)
from engine.command_io.progress import stderr_lines
from engine.command_io.results import check_results_file, write_results
from engine.commands.bench.latency import latency_table, measure_latency
from engine.commands.bench.roofline import measure_roofline
from engine.commands.bench.roofline_tables import roofline_tables
from engine.commands.bench.speculation import check, measure_speculation, speculation_table, write_speedup_plot
from engine.commands.bench.throughput import measure_throughput, throughput_table
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import HeadraceError, OptionError
from engine.protocol import EngineInfo
from engine.startup.build import build_engine

_FILE_WIDTH = 120  # in files and pipes, for which rich would take 80


def main(argv: Sequence[str]) -> int:
    """Build the engine, run one benchmark, and print its tables; return the exit code."""
    exit_on_sigterm()
    end_with_parent()
    name, job = argv
    engine_options, options = msgspec.json.decode(job)
    engine_config = msgspec.convert(engine_options, EngineConfig)
    config = msgspec.convert(options, BENCH_CONFIGS[name])
    try:
        check_results_file(config.json)
        if isinstance(config, SpeculationConfig):
            check(config, engine_config)
        engine, info = build_engine(engine_config, stderr_lines())  # no bars: the reader waits for the end
        for note in info.notes:
            sys.stderr.write(f"{note}\n")
        results, shown = _run(engine, info, config, engine_config.model)
        console = Console()
        if not console.is_terminal:
            console.width = _FILE_WIDTH
        console.print(shown)
        if config.json is not None:
            described = {"engine_config": dataclasses.asdict(engine_config), "config": dataclasses.asdict(config)}
            write_results(config.json, {"benchmark": name, **described, "notes": info.notes, "results": results})
    except HeadraceError as error:
        sys.stderr.write(f"headrace: {error}\n")
        return 2 if isinstance(error, OptionError) else 1
    return 0


def _run(engine: Engine, info: EngineInfo, config: BenchConfig, model: str) -> tuple[Any, RenderableType]:
    match config:
        case LatencyConfig():
            latencies = measure_latency(engine, info, config)
            return latencies, latency_table(latencies, config)
        case ThroughputConfig():
            rates = measure_throughput(engine, info, config)
            return rates, throughput_table(rates, config)
        case RooflineConfig():
            roofline = measure_roofline(engine, info, config)
            return roofline, roofline_tables(roofline)
        case SpeculationConfig():
            results = measure_speculation(engine, info, config)
            if config.plot is not None:
                write_speedup_plot(config.plot, results, model)
            return results, speculation_table(results, config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
