"""`headrace simulate`: the command, from its options to its tables and plot."""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from engine.command_io.plotting import check_plotting
from engine.command_io.results import check_results_file, write_results
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.simulation.config import SimulateConfig
from engine.simulation.fleet import Fleet, replica_of
from engine.simulation.hardware import SimulatedModel, find_card
from engine.simulation.merged_blocks import merge_blocks
from engine.simulation.plot import plot_simulation
from engine.simulation.policies import make_policy
from engine.simulation.report import result_tables
from engine.simulation.results import GIVEN, MODELED, simulation_result
from engine.simulation.trace import TraceRequest, draw_trace, read_trace
from server.commands.options.arguments import build_config
from server.commands.options.definitions import OPTIONS
from server.commands.options.sources import options_file, resolve_options
from server.commands.simulate.arguments import SIZES, simulate_parser
from server.commands.simulate.hardware import THIS, answer_from, read_saved, refuse_decided

_ALL_REFUSED = 3  # exit code
_NUM_SYNTHETIC = 1000
_FILE_WIDTH = 120  # in files and pipes, for which rich would take 80
# Options that only one kind of load has.
_SYNTHETIC_ONLY = ("rate", "input_len", "output_len", "prefix_len", "num_prefixes")
_TRACE_ONLY = ("rate_factor",)
# Options of a file or of variables that would change the results, and that the simulator does not follow.
_UNSIMULATED = ("speculative_method", "draft_model", "speculative_config", "kv_offload_dir", "enable_lora")


def run(argv: Sequence[str]) -> int:
    """Simulate the load that `argv` describes; return the exit code. Raises OptionError or StartupError."""
    namespace = simulate_parser().parse_args(argv)
    config: SimulateConfig = build_config(SimulateConfig, namespace)
    flags = {name: value for name, value in vars(namespace).items() if name in OPTIONS}
    _, engine = resolve_options(flags, os.environ, options_file(namespace.config))
    if followed := [name for name in _UNSIMULATED if getattr(engine, name) != OPTIONS[name].default]:
        raise OptionError(f"{OPTIONS[followed[0]].flag} is not simulated; leave it out")
    check_results_file(config.json)
    check_results_file(config.save_hardware, "--save-hardware")
    if config.json is not None and config.json == config.save_hardware:
        raise OptionError(f"--json and --save-hardware are both {config.json}; name two files")
    if config.plot is not None:
        check_plotting(config.plot)
    policy = make_policy(config.policy, config.seed)
    trace = _load(namespace, config)
    model = _simulated_model(config, engine, given=flags)
    if config.save_hardware is not None:
        _save(config.save_hardware, model)
    played = merge_blocks(model, trace, engine.max_num_seqs, config.simulated_block_size)
    began_s = time.process_time()
    fleet = Fleet([replica_of(played, engine) for _ in range(config.replicas)], policy, model.kv_tokens)
    fates = fleet.run(trace)
    result = simulation_result(fleet, fates, config.price)
    cpu_s = time.process_time() - began_s
    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    console.print(result_tables(result, model, config.policy, config.price, played.block_size))
    if not result.answered:
        missing = "there are no times" if config.plot is None else "there are no times, and nothing is plotted"
        sys.stderr.write(f"headrace: all requests are refused, so {missing}; the first one: {result.first_refusal}\n")
    elif config.plot is not None:
        plot_simulation(config.plot, fates, result, model, config.policy)
    if config.json is not None:
        write_results(
            config.json,
            {
                "config": dataclasses.asdict(config),
                "engine_config": dataclasses.asdict(engine),
                "hardware": {"origin": model.origin, **msgspec.to_builtins(model)},
                "origins": {"requests": GIVEN, "*": MODELED},
                "simulated_block_size": played.block_size,
                "results": result,
                "simulated_replica_s_per_cpu_s": result.duration_s * config.replicas / cpu_s,
            },
        )
    return 0 if result.answered else _ALL_REFUSED


def _load(namespace: argparse.Namespace, config: SimulateConfig) -> list[TraceRequest]:
    if config.synthetic == (namespace.trace is not None):
        raise OptionError("give either a TRACE or --synthetic")
    others = _TRACE_ONLY if config.synthetic else _SYNTHETIC_ONLY
    if given := [name for name in others if name in vars(namespace)]:
        flag = "--" + given[0].replace("_", "-")
        raise OptionError(f"{flag} is for {'a trace' if config.synthetic else '--synthetic'}; leave it out")
    if not config.synthetic:
        return read_trace(namespace.trace, rate_factor=config.rate_factor, limit=config.num_requests)
    if config.num_prefixes > 1 and not config.prefix_len:
        raise OptionError(f"--num-prefixes is {config.num_prefixes}, and no prefix is drawn; give --prefix-len too")
    return draw_trace(
        rate=config.rate,
        num_requests=config.num_requests or _NUM_SYNTHETIC,
        input_len=config.input_len,
        output_len=config.output_len,
        prefix_len=config.prefix_len,
        num_prefixes=config.num_prefixes,
        seed=config.seed,
    )


def _simulated_model(config: SimulateConfig, engine: EngineConfig, given: Mapping[str, object]) -> SimulatedModel:
    """Return the model on the hardware that --hardware names."""
    if Path(config.hardware).is_file():
        refuse_decided(("model", *SIZES), given, config.hardware)
        return read_saved(config.hardware)
    card = None if config.hardware == THIS else find_card(config.hardware).name
    return answer_from("engine.commands.simulated", (engine, card), SimulatedModel)


def _save(path: str, model: SimulatedModel) -> None:
    try:
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(model)) + b"\n")
    except OSError as error:
        raise StartupError(f"cannot write {path}: {error.strerror}") from error
