"""`headrace bench`: its parser, and the dispatch to the benchmarks."""

import argparse
import importlib
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from engine.command_io.bench_config import BENCH_CONFIGS
from engine.config import EngineConfig
from engine.errors import OptionError
from server.commands.child_process import run_module
from server.commands.options.arguments import Parser, action_examples, add_options, build_config
from server.commands.options.definitions import OPTIONS, options_of
from server.commands.options.sources import options_file, resolve_options
from server.loadtest.config import LoadConfig, StartupConfig

_EPILOG = """\
examples:
  headrace bench serve --url http://127.0.0.1:8000 --max-concurrency 8 --input-len 64:512 --output-len 32:256
  headrace bench latency /path/to/model --batch-size 1 8
  headrace bench throughput /path/to/model --num-prompts 64
  headrace bench roofline /path/to/model
  headrace bench spec /path/to/model --draft-model /path/to/small/model --plot speedup.png
  headrace bench startup /path/to/model
"""
_HELP = {
    "serve": "put a load on this or another server with the OpenAI API",
    "latency": "time prefill and decode of the engine, without HTTP",
    "throughput": "count the engine's tokens a second with all requests at once",
    "spec": "compare tokens a second with and without drafts, by batch size",
    "roofline": "compare each phase of the engine's steps with the machine's limits",
    "startup": "time the phases of a server's start",
}


def run(argv: Sequence[str]) -> int:
    """Run the benchmark that `argv` names; return the exit code. Raises OptionError or StartupError."""
    namespace = bench_parser().parse_args(argv)
    if namespace.benchmark is None:
        raise OptionError("no benchmark given; usage: headrace bench BENCHMARK [options]")
    config = build_config(_config_class(namespace.benchmark), namespace)
    if namespace.benchmark == "serve":
        # Imported by name, like every command, so that `headrace --help` does not load the load generator's libraries.
        return int(importlib.import_module("server.loadtest.serve").run(config))
    return _run_engine_benchmark(namespace, config)


def _run_engine_benchmark(namespace: argparse.Namespace, config: Any) -> int:
    """Run a benchmark of the engine in a child process (`startup`: in one child process per start)."""
    given = vars(namespace)
    flags = {option.name: given[option.name] for option in options_of(EngineConfig) if option.name in given}
    if namespace.positional_model is not None:
        if "model" in flags:
            raise OptionError(f"the model is given twice: {namespace.positional_model} and --model {flags['model']}")
        flags["model"] = namespace.positional_model
    _, engine_config = resolve_options(flags, os.environ, options_file(namespace.config))
    if namespace.benchmark == "startup":
        return int(importlib.import_module("server.commands.bench_startup").run(config, engine_config))
    job = msgspec.json.encode([engine_config, config]).decode()
    return run_module("engine.commands.bench", namespace.benchmark, job)


def _config_class(benchmark: str) -> type[Any]:
    own = {"serve": LoadConfig, "startup": StartupConfig}
    return own[benchmark] if benchmark in own else BENCH_CONFIGS[benchmark]


def bench_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace bench",
        description="Measure a server, or the engine without one.",
        epilog=_EPILOG,
    )
    benchmarks = parser.add_subparsers(dest="benchmark", title="benchmarks", metavar="BENCHMARK")
    for name, text in _HELP.items():
        takes_model = name != "serve"
        benchmark = benchmarks.add_parser(
            name,
            help=text,
            usage=f"headrace bench {name} {'[MODEL] ' if takes_model else ''}[options]",
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=action_examples(_EPILOG, f"bench {name}"),
        )
        if takes_model:
            benchmark.add_argument("positional_model", nargs="?", metavar="MODEL", help=OPTIONS["model"].help)
            benchmark.add_argument("--config", metavar="FILE", help="YAML file of options, as for headrace serve.")
        add_options(benchmark, options_of(_config_class(name)), many="extend")
        if takes_model:
            add_options(benchmark, options_of(EngineConfig), many="append")
    return parser
