"""`headrace plan`: the command, its parser, its job and its tables."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from engine.command_io.lengths import parse_lengths
from engine.config import EngineConfig, KVCacheDType, Quantization
from engine.errors import OptionError
from engine.simulation.costs import CARDS
from engine.simulation.hardware import SimulatedModel, find_card
from engine.simulation.planning.config import PlanConfig
from engine.simulation.planning.job import PlanJob, PlannedModels
from engine.simulation.planning.plan import Plan, Variant, make_plan
from engine.simulation.planning.report import plan_tables
from engine.simulation.planning.search import LoadKind, Requests, Servers
from engine.simulation.planning.slo import parse_slo
from server.commands.options.arguments import Parser, add_options, build_config
from server.commands.options.definitions import OPTIONS, options_of
from server.commands.options.sources import options_file, resolve_options
from server.commands.plan_training import is_about_training, run_training
from server.commands.simulate.arguments import SCHEDULING, SIZES
from server.commands.simulate.hardware import THIS, answer_from, read_saved, refuse_decided

NOTHING_MEETS = 3  # exit code
_FILE_WIDTH = 150  # in files and pipes, for which rich would take 80
_QUANTIZED = (Quantization.INT8, Quantization.INT4)
_DEQUANTIZED = "not planned: on a card, all weights count as dequantized"
# Options of a file or of variables that would change the results, and that the simulator does not follow.
_UNPLANNED = ("speculative_method", "draft_model", "speculative_config", "kv_offload_dir", "enable_lora")
_EPILOG = f"""\
cards: {", ".join(CARDS)}

Of training: headrace plan MODEL --train FILE says what it takes, and headrace plan --jobs FOLDER... what more examples,
rank or epochs would bring; headrace plan --train --help shows the options.

exit codes: 0 if some load keeps the limits of --slo, 1 if the model cannot be planned, 2 for a wrong option or model,
3 if no load keeps the limits.

examples:
  headrace plan model.gguf --concurrency 8 --slo ttft=1s,tpot=50ms
  headrace plan model.gguf --input 500 --output 200 --rate 2 --hardware here.json
  headrace plan /path/to/folder --load-format dummy --rate 20 --hardware h100 --price 2.5
"""


def run(argv: Sequence[str]) -> int:
    """Make the plan that `argv` asks for; return the exit code. Raises OptionError or StartupError."""
    if is_about_training(argv):
        return run_training(argv)
    namespace = plan_parser().parse_args(argv)
    config: PlanConfig = build_config(PlanConfig, namespace)
    kind, amount = _load(config)
    slo = parse_slo(config.slo)
    parse_lengths(config.input, "--input")
    parse_lengths(config.output, "--output")
    engine, given = _engine(namespace)
    hardware = _hardware(config.hardware, given)
    variants = dict(_variants(engine, hardware)) if config.changes else {}
    planned = answer_from("engine.commands.planned", PlanJob(engine, hardware, variants), PlannedModels)
    plan = make_plan(
        Servers(planned.model, engine, config.replicas, config.price),
        Requests(config.input, config.output, config.num_requests, config.seed),
        kind,
        amount,
        slo,
        [*(_unplanned(hardware) if config.changes else ()), *planned.variants],
        has_changes=config.changes,
    )
    _show(plan, config)
    return NOTHING_MEETS if plan.largest is None else 0


def _load(config: PlanConfig) -> tuple[LoadKind, float]:
    if (config.rate is None) == (config.concurrency is None):
        raise OptionError("give either --rate, requests a second, or --concurrency, users at the same time")
    if config.rate is not None:
        return LoadKind.RATE, config.rate
    assert config.concurrency is not None
    return LoadKind.CONCURRENCY, config.concurrency


def _engine(namespace: argparse.Namespace) -> tuple[EngineConfig, dict[str, object]]:
    """Return the engine's options, and those that flags give."""
    given = {name: value for name, value in vars(namespace).items() if name in OPTIONS}
    if namespace.planned_model is not None:
        if "model" in given:
            raise OptionError(f"the model is given twice: {namespace.planned_model} and --model {given['model']}")
        given["model"] = namespace.planned_model
    _, engine = resolve_options(given, os.environ, options_file(namespace.config))
    if followed := [name for name in _UNPLANNED if getattr(engine, name) != OPTIONS[name].default]:
        raise OptionError(f"{OPTIONS[followed[0]].flag} is not planned; leave it out")
    return engine, given


def _hardware(name: str, given: dict[str, object]) -> SimulatedModel | str | None:
    if Path(name).is_file():
        refuse_decided(SIZES, given, name)
        return read_saved(name)
    return None if name == THIS else find_card(name).name


def _variants(engine: EngineConfig, hardware: SimulatedModel | str | None) -> Iterator[tuple[str, EngineConfig]]:
    """Yield other options to compare, by their flags."""
    for quantization in _QUANTIZED if not isinstance(hardware, str) else ():
        if quantization is not engine.quantization:
            changed = dataclasses.replace(engine, quantization=quantization, quantization_group_size=None)
            yield f"--quantization {quantization.value}", changed
    kv_dtype = KVCacheDType.AUTO if engine.kv_cache_dtype is KVCacheDType.INT8 else KVCacheDType.INT8
    yield f"--kv-cache-dtype {kv_dtype.value}", dataclasses.replace(engine, kv_cache_dtype=kv_dtype)


def _unplanned(hardware: SimulatedModel | str | None) -> list[Variant]:
    """Return the options that are not compared on a card, with the reason."""
    skipped = _QUANTIZED if isinstance(hardware, str) else ()
    return [Variant(f"--quantization {each.value}", None, _DEQUANTIZED) for each in skipped]


def _show(plan: Plan, config: PlanConfig) -> None:
    if config.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(plan)).decode() + "\n")
    else:
        console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH, highlight=False)
        console.print(plan_tables(plan, config.price))


def plan_parser() -> Parser:
    parser = Parser(
        prog="headrace plan",
        usage="headrace plan MODEL --rate R|--concurrency N [options]",
        description="Say how a load would run on a machine, which load is the largest within limits of time, and what "
        "other options, longer prompts or one more server would change. Loads are played to the real scheduler on a "
        "virtual clock; no weights are read.",
        epilog=_EPILOG,
    )
    parser.add_argument("planned_model", nargs="?", metavar="MODEL", help=OPTIONS["model"].help)
    parser.add_argument("--config", metavar="FILE", help="YAML file of options, as for headrace serve.")
    add_options(parser, options_of(PlanConfig), many="append")
    for action in parser._actions:
        if action.dest == "hardware" and action.help is not None:
            action.help = action.help.replace("CARDS", ", ".join(CARDS))
    add_options(parser, [OPTIONS[name] for name in ("model", *SIZES, *SCHEDULING)], many="append")
    return parser
