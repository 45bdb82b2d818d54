"""`headrace batch`: the command, from its options to its exit code."""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.child_processes.log_format import configure_logging
from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.wording import counted
from server.calibration.files import Calibrations
from server.commands.alone import Interrupted, LineProgress, run_alone, say
from server.commands.batch.arguments import batch_parser
from server.commands.batch.output_file import OutputFile
from server.commands.options.definitions import OPTIONS
from server.commands.options.sources import names_model, options_file, resolve_options
from server.config.server import ServerConfig
from server.text.chat_templates.chat_template import load_chat_template
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.commands.batch.answering import LineCounts
    from server.commands.batch.input_file import InputFile, InputLine
    from server.context import ServerContext

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
        Calibrations(server.calibration)  # likewise
        job = stack.enter_context(_job(namespace, server))
        if not job.left:
            failed = f", {job.num_failed:,} of them errors" if job.num_failed else ""
            say(f"{job.output.path} already has all answers: {_lines(job.num_lines)}{failed}")
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
    if not names_model(flags, os.environ, file):
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
    progress = LineProgress(server, job.num_lines, job.num_before)
    if job.num_before:
        say(f"{job.output.path} has {job.num_before:,} of {_lines(job.num_lines)}; continuing with the rest")

    async def work(context: "ServerContext") -> tuple["LineCounts", float]:
        from server.commands.batch.answering import LineRunner

        started_s = time.monotonic()
        with progress:
            runner = LineRunner(
                context, job.file, job.store, lambda counts: progress.show(counts.completed + counts.failed)
            )
            return await runner.run(job.left), time.monotonic() - started_s

    try:
        remedy = "run the same command to answer the rest"
        counts, seconds = await run_alone(server, engine, templates, began_s, work, remedy=remedy)
    except Interrupted as interrupted:
        left = len(job.left) - progress.num_answered
        say(f"interrupted: {left:,} of {_lines(job.num_lines)} left; run the same command to continue")
        return interrupted.exit_code
    return _finish(job, counts, seconds)


def _finish(job: _Job, counts: "LineCounts", seconds: float) -> int:
    """Report the results; return the exit code."""
    usage = counts.usage
    failed = f", {counts.failed:,} failed (see {job.errors.path})" if counts.failed else ""
    say(
        f"{_lines(counts.completed + counts.failed)} in {seconds:,.1f} s{failed}; {usage.input_tokens:,} "
        f"tokens read ({usage.cached_tokens:,} cached), {usage.output_tokens:,} written "
        f"({usage.output_tokens / max(seconds, 1e-9):,.0f} tokens/s)"
    )
    return _SOME_FAILED if counts.failed or job.num_failed else 0


def _lines(count: int) -> str:
    return counted(count, "line")
