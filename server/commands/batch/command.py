"""`headrace batch`: the command, from its options to its exit code."""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from engine.child_processes.log_format import configure_logging
from engine.command_io.stage_bars import StageBars
from engine.command_io.stage_lines import StageLines
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.wording import counted
from server.commands.batch.arguments import batch_parser
from server.commands.batch.output_file import OutputFile
from server.commands.options.definitions import OPTIONS
from server.commands.options.sources import options_file, resolve_options
from server.commands.serve.engines import OneEngine
from server.commands.serve.shared_terminal import can_draw
from server.commands.serve.signals import catch_signals, unless
from server.config.server import LogLevel, ServerConfig
from server.metrics.values import Metrics
from server.text.chat_templates.chat_template import load_chat_template
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.commands.batch.answering import LineCounts, LineRunner
    from server.commands.batch.input_file import InputFile, InputLine

_ALONE_STEP_MS = 500.0  # no client waits for the end of a step
_SOME_FAILED = 3  # exit code


@dataclasses.dataclass(slots=True)
class _Job:
    """The lines that are left to answer, and the files for their answers and errors."""

    file: "InputFile"
    left: "list[InputLine]"
    output: OutputFile
    errors: OutputFile
    num_failed: int  # in previous runs

    def store(self, line: bytes, is_completed: bool) -> None:
        (self.output if is_completed else self.errors).add(line)

    @property
    def num_lines(self) -> int:
        return len(self.file.lines)

    @property
    def num_before(self) -> int:
        """Number of lines that were answered by previous runs."""
        return self.num_lines - len(self.left)


def run(argv: Sequence[str]) -> int:
    """Run the requests of a file as `argv` says; return the exit code. Raises OptionError or StartupError."""
    began_s = time.monotonic()
    namespace = _parsed(argv)
    server, engine = _configs(namespace)
    configure_logging(server.log_level, server.log_format)
    with contextlib.ExitStack() as stack:
        templates = stack.enter_context(contextlib.closing(TemplateProcesses()))
        load_chat_template(server.chat_template, None, {}, frozenset(), templates)  # to report an error now
        job = stack.enter_context(_job(namespace, server))
        if not job.left:
            failed = f", {job.num_failed:,} of them errors" if job.num_failed else ""
            _say(f"{job.output.path} already has all answers: {_lines(job.num_lines)}{failed}")
            return _SOME_FAILED if job.num_failed else 0
        if not server.served_model_name and job.file.models:
            server = dataclasses.replace(server, served_model_name=tuple(job.file.models))
        return asyncio.run(_answer(job, server, engine, templates, began_s))


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    namespace = batch_parser().parse_args(argv)
    for name, flag in (("input", "-i"), ("output", "-o")):
        by_flag = getattr(namespace, f"{name}_file")
        if by_flag is not None and getattr(namespace, name) is not None:
            raise OptionError(f"{name.upper()} is given twice: {getattr(namespace, name)} and {flag} {by_flag}")
        if by_flag is not None:
            setattr(namespace, name, by_flag)
        if getattr(namespace, name) is None:
            raise OptionError(f"no {name.upper()} given; usage: headrace batch INPUT OUTPUT --model MODEL")
    return namespace


def _configs(namespace: argparse.Namespace) -> tuple[ServerConfig, EngineConfig]:
    flags = {name: value for name, value in vars(namespace).items() if name in OPTIONS}
    file = options_file(namespace.config)
    if "model" not in flags and file is None and OPTIONS["model"].variable not in os.environ:
        raise OptionError("no model given; usage: headrace batch INPUT OUTPUT --model MODEL")
    server, engine = resolve_options(flags, os.environ, file)
    step = OPTIONS["batch_step_ms"]
    if engine.batch_step_ms == step.default and step.name not in flags and step.variable not in os.environ:
        engine = dataclasses.replace(engine, batch_step_ms=_ALONE_STEP_MS)
    if server.models.entries:
        raise OptionError("the options name several models, but a file of requests is for one; choose it with --model")
    return server, engine


@contextlib.contextmanager
def _job(namespace: argparse.Namespace, server: ServerConfig) -> Iterator[_Job]:
    """Open and check the input, output and error files, and yield them as a job. Raises StartupError."""
    from server.commands.batch.input_file import InputFile
    from server.endpoints.binding.registry import BATCH_ENDPOINTS

    with contextlib.ExitStack() as stack:
        file = InputFile(namespace.input, list(BATCH_ENDPOINTS), max_line_bytes=server.max_request_bytes)
        stack.callback(file.close)
        _check_models(file, server)
        outputs = [namespace.output] if namespace.errors is None else [namespace.output, namespace.errors]
        opened: list[OutputFile] = []
        for path in outputs:
            if os.path.exists(path) and os.path.samefile(path, namespace.input):
                raise StartupError(f"{path} is the input; name another output file")
            if opened and os.path.exists(path) and os.path.samefile(path, namespace.output):
                raise StartupError(f"--errors {path} is also OUTPUT; name another file, or leave --errors out")
            opened.append(OutputFile(path))
            stack.callback(opened[-1].close)
        answered = [each for output in opened for each in output.recover()]
        done = {each.custom_id for each in answered}
        if unknown := done.difference(line.custom_id for line in file.lines):
            raise StartupError(
                f"{namespace.output} has answers to {_lines(len(unknown))} not in {namespace.input}, such as "
                f"{min(unknown)!r}; name a new file, or the output of the same requests"
            )
        left = [line for line in file.lines if line.custom_id not in done]
        left.sort(key=lambda line: line.prefix)  # so that common prefixes of prompts are computed once
        num_failed = sum(not each.is_completed for each in answered)
        yield _Job(file, left, opened[0], opened[-1], num_failed)


def _check_models(file: "InputFile", server: ServerConfig) -> None:
    """Raise StartupError if the lines name more than one model, unless --served-model-name decides which is served."""
    if server.served_model_name or len(file.models) < 2:  # lines for other models get an error
        return
    named = ", ".join(f"{name} ({_lines(count)})" for name, count in file.models.most_common(5))
    raise StartupError(
        f"{file.path} has lines for {len(file.models)} models: {named}; the command runs one; split the file, or "
        "give these names to one model with --served-model-name"
    )


async def _answer(
    job: _Job, server: ServerConfig, engine: EngineConfig, templates: TemplateProcesses, began_s: float
) -> int:
    stop = catch_signals()
    name = server.model_entries(engine)[0].name
    metrics = Metrics(name)
    progress = _Progress(job, server)
    engines = OneEngine(name, server, engine, metrics, began_s)
    await engines.start()
    templates.begin()
    from server.app import create_app
    from server.commands.batch.answering import LineRunner

    context = create_app(engines.clients, server, engine, metrics, templates=templates).state.context
    engines.context = context
    try:
        if job.num_before:
            _say(f"{job.output.path} has {job.num_before:,} of {_lines(job.num_lines)}; continuing with the rest")
        if await unless(stop, engines.wait_loaded()) is None:
            return _stopped(job, stop.result(), 0)
        progress.start()
        runner = LineRunner(context, job.file, job.store, progress.show)
        counts = await unless(stop, _until_dead(engines, runner, job))
        progress.close()
        return _stopped(job, stop.result(), progress.num_answered) if counts is None else progress.finish(counts)
    finally:
        progress.close()
        await engines.stop()
        context.workers.close()


async def _until_dead(engines: OneEngine, runner: "LineRunner", job: _Job) -> "LineCounts":
    """Run the lines. Raises StartupError if the engine dies for good before all lines are answered."""
    work = asyncio.ensure_future(runner.run(job.left))
    dead = asyncio.ensure_future(engines.wait_dead())
    try:
        await asyncio.wait({work, dead}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise StartupError(f"{dead.result()}; run the same command to answer the rest")
        return work.result()
    finally:
        for task in (work, dead):
            task.cancel()
        await asyncio.gather(work, dead, return_exceptions=True)


def _stopped(job: _Job, number: signal.Signals, num_answered: int) -> int:
    left = len(job.left) - num_answered
    _say(f"interrupted: {left:,} of {_lines(job.num_lines)} left; run the same command to continue")
    return 128 + number


class _Progress:
    """Progress of the run: a bar on a terminal, log lines elsewhere. Must be created before the engine, since loading
    replaces stderr by a pipe."""

    def __init__(self, job: _Job, server: ServerConfig) -> None:
        self._job = job
        self._is_logged = server.log_level in (LogLevel.DEBUG, LogLevel.INFO)
        self._is_drawn = can_draw(server.log_format)
        self._show: StageBars | StageLines | None = None
        self._began_s = 0.0
        self.num_answered = 0

    def start(self) -> None:
        self._began_s = time.monotonic()
        if self._is_drawn:
            self._show = StageBars(Console(stderr=True, highlight=False))
        elif self._is_logged:
            self._show = StageLines(_say)
        self._report(0)

    def show(self, counts: "LineCounts") -> None:
        self.num_answered = counts.completed + counts.failed
        self._report(self.num_answered)

    def _report(self, num_answered: int) -> None:
        if self._show is not None:
            self._show("answer lines", self._job.num_before + num_answered, self._job.num_lines, "lines")

    def close(self) -> None:
        if self._show is not None:
            self._show.close()
            self._show = None

    def finish(self, counts: "LineCounts") -> int:
        """Report the results; return the exit code."""
        self.close()
        seconds = time.monotonic() - self._began_s
        usage = counts.usage
        failed = f", {counts.failed:,} failed (see {self._job.errors.path})" if counts.failed else ""
        _say(
            f"{_lines(counts.completed + counts.failed)} in {seconds:,.1f} s{failed}; {usage.input_tokens:,} "
            f"tokens read ({usage.cached_tokens:,} cached), {usage.output_tokens:,} written "
            f"({usage.output_tokens / max(seconds, 1e-9):,.0f} tokens/s)"
        )
        return _SOME_FAILED if counts.failed or self._job.num_failed else 0


def _lines(count: int) -> str:
    return counted(count, "line")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
