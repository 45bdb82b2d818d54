"""`headrace calibrate`: the command, from its options to its exit code."""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.child_processes.log_format import configure_logging
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.wording import counted
from server.calibration.calibration import Identity, ModelCalibration
from server.calibration.files import merge_calibration
from server.calibration.fitting import TooFewAnswers, calibrate_kind
from server.commands.alone import Interrupted, LineProgress, run_alone, say
from server.commands.calibrate.arguments import calibrate_parser
from server.commands.options.definitions import OPTIONS
from server.commands.options.sources import options_file, resolve_options
from server.config.server import ServerConfig
from server.text.chat_templates.chat_template import load_chat_template
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.commands.calibrate.answering import RowResults
    from server.commands.calibrate.rows import KnownRow
    from server.context import ServerContext

_SOME_FAILED = 3  # exit code


def run(argv: Sequence[str]) -> int:
    """Calibrate a model as `argv` says; return the exit code. Raises OptionError or StartupError; exits for --help."""
    began_s = time.monotonic()
    namespace = calibrate_parser().parse_args(argv)
    server, engine = _configs(namespace)
    configure_logging(server.log_level, server.log_format)
    with contextlib.closing(TemplateProcesses()) as templates:
        load_chat_template(server.chat_template, None, {}, frozenset(), templates)  # to report an error now
        from server.commands.calibrate.rows import check_known_rows, read_known_rows

        rows = read_known_rows(
            namespace.rows, min_mass=server.decision_min_mass, max_line_bytes=server.max_request_bytes
        )
        for kind, why in check_known_rows(rows).items():
            say(f"{kind} will not be calibrated: {why}")
        work = _calibrate(rows, server, engine, templates, began_s, stores_doubtful=namespace.store_doubtful)
        return asyncio.run(work)


def _configs(namespace: argparse.Namespace) -> tuple[ServerConfig, EngineConfig]:
    flags = {name: value for name, value in vars(namespace).items() if name in OPTIONS}
    server, engine = resolve_options(flags, os.environ, options_file(namespace.config))
    if len(server.lora.modules) > 1:
        raise OptionError("--lora-modules has several adapters; name the one to calibrate")
    return dataclasses.replace(server, calibration=None), engine  # raw probabilities are what it needs


async def _calibrate(
    rows: "list[KnownRow]",
    server: ServerConfig,
    engine: EngineConfig,
    templates: TemplateProcesses,
    began_s: float,
    *,
    stores_doubtful: bool,
) -> int:
    name = server.model_entries(engine)[0].name
    adapter = server.lora.modules[0].name if server.lora.modules else None
    progress = LineProgress(server, len(rows))

    async def work(context: "ServerContext") -> "tuple[RowResults, Identity, Path]":
        from server.commands.calibrate.answering import answer_rows
        from server.decisions.calibrating import decision_identity

        model = context.models.find(adapter or name)
        folder = model.client.info.calibration_folder
        identity = decision_identity(model, await model.text_model())
        if identity is None or folder is None:
            raise StartupError(f"{engine.model} does not answer decisions; they need a model that generates text")
        with progress:
            return await answer_rows(context, model.name, rows, progress.show), identity, Path(folder)

    try:
        remedy = "nothing was written; run the same command again"
        results, identity, folder = await run_alone(server, engine, templates, began_s, work, remedy=remedy)
    except Interrupted as interrupted:
        say(f"interrupted after {progress.num_answered:,} of {counted(len(rows), 'line')}; nothing was written")
        return interrupted.exit_code
    return _finish(results, identity, folder, name, adapter, stores_doubtful=stores_doubtful)


def _finish(
    results: "RowResults", identity: Identity, folder: Path, model: str, adapter: str | None, *, stores_doubtful: bool
) -> int:
    """Fit, write and report; return the exit code. Raises StartupError if there is nothing to store."""
    from server.commands.calibrate.report import doubts_of, report_text
    from server.decisions.decision import Kind

    kinds, too_few = {}, {}
    for kind, known in results.known.items():
        try:
            if known:
                kinds[str(kind)] = calibrate_kind(known, is_predicate=kind is Kind.PREDICATE)
        except TooFewAnswers as error:
            too_few[str(kind)] = str(error)
    calibration = ModelCalibration(
        identity=identity, model=model, adapter=adapter, created_s=int(time.time()), kinds=kinds
    )
    doubtful = () if stores_doubtful else tuple(doubts_of(calibration))
    sys.stdout.write(f"{report_text(calibration, too_few, results, not_stored=doubtful)}\n")
    if not kinds:
        raise StartupError("there is nothing to calibrate: too few answers are known")
    kinds = {kind: each for kind, each in kinds.items() if kind not in doubtful}
    if not kinds:
        raise StartupError("nothing was stored: probabilities of this model do not tell right answers from wrong ones")
    path, kept = merge_calibration(msgspec.structs.replace(calibration, kinds=kinds), folder)
    if kept:
        sys.stdout.write(f"kept from the calibration before: {', '.join(kept)}\n")
    sys.stdout.write(f"written to {path}\n")
    return _SOME_FAILED if results.failures else 0
