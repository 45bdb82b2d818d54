"""`headrace synthesize`: the command, from its options to its exit code."""

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.child_processes.log_format import configure_logging
from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.command_io.finetuning.job import write_atomically, write_parts_atomically
from engine.config import EngineConfig
from engine.errors import EngineStopped, InvalidRequest, OptionError, StartupError
from engine.wording import counted
from server.commands.alone import Interrupted, LineProgress, run_alone, say
from server.commands.chat.connecting import client_key, trusted_authorities
from server.commands.options.arguments import build_config
from server.commands.options.definitions import OPTIONS
from server.commands.options.sources import options_file, resolve_options
from server.commands.synthesize.arguments import TEACHER_KEY_VARIABLE, SynthesisConfig, synthesize_parser
from server.commands.synthesize.journal import SUFFIX, AnswerJournal, RunName
from server.config.server import ServerConfig
from server.data.formats import check_suffix, read_lines
from server.data.options import check_preparation
from server.data.preparation import FaultyLines, Preparation
from server.synthesis.counts import acceptance_table
from server.synthesis.recipe import SynthesisRecipe
from server.synthesis.recipe_file import built_in_recipes, load_recipe
from server.synthesis.sources import Items, open_source
from server.synthesis.synthesis import Bounds, Synthesis
from server.synthesis.variables import filled
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.commands.synthesize.answering import Answerer, JournaledAnswers
    from server.context import ServerContext

_STOPPED = 3  # exit code
_STAGE = "make lines"


def run(argv: Sequence[str]) -> int:
    """Make lines as `argv` says; return the exit code. Raises OptionError or StartupError; exits for --help."""
    began_s = time.monotonic()
    namespace = synthesize_parser().parse_args(argv)
    if namespace.list or namespace.show is not None:
        sys.stdout.write(_listed() if namespace.list else _shown(namespace.show))
        return 0
    config: SynthesisConfig = build_config(SynthesisConfig, namespace)
    if namespace.recipe is None or config.out is None:
        raise OptionError("RECIPE or --out is missing; usage: headrace synthesize RECIPE --model MODEL --out FILE")
    recipe, path = load_recipe(namespace.recipe, config.variables)
    files = config.input or tuple(str(path.parent / name) for name in recipe.source.files)
    _check_files(config, files)
    _check_models(recipe, config)
    preparation = _preparation(recipe, config)
    items = open_source(recipe.source, files, config.seed)
    out = Path(config.out).expanduser()
    journal_path = out.with_name(out.name + SUFFIX)
    if out.exists() and not journal_path.exists():
        raise OptionError(f"{out} exists and has no journal, so it is not of a synthesis; name another --out")
    with contextlib.closing(AnswerJournal(str(journal_path), RunName(recipe.name, config.seed))) as journal:
        if len(journal):
            say(f"{journal_path} has {counted(len(journal), 'answer')}, which are not computed again")
        work = _Run(config, recipe, items, preparation, journal, out)
        if config.server is None and config.teacher_url is None:
            return work.with_engine(namespace, began_s)
        return asyncio.run(work.with_client(namespace))


@dataclasses.dataclass
class _Run:
    """A checked command. Its synthesis is made when the model's name is known."""

    config: SynthesisConfig
    recipe: SynthesisRecipe
    items: Items
    preparation: Preparation
    journal: AnswerJournal
    out: Path
    synthesis: Synthesis | None = None
    answers: "JournaledAnswers | None" = None

    def with_engine(self, namespace: argparse.Namespace, began_s: float) -> int:
        """Make the lines with an engine of this process; return the exit code."""
        flags = {name: value for name, value in vars(namespace).items() if name in OPTIONS}
        server, engine = resolve_options(flags, os.environ, options_file(namespace.config))
        if server.models.entries:
            raise OptionError("the options name several models, but a synthesis uses one; choose it with --model")
        configure_logging(server.log_level, server.log_format)
        with contextlib.closing(TemplateProcesses()) as templates:
            return asyncio.run(self._alone(server, engine, templates, began_s))

    async def _alone(
        self, server: ServerConfig, engine: EngineConfig, templates: TemplateProcesses, began_s: float
    ) -> int:
        progress = LineProgress(server, self._num_lines, stage=_STAGE)
        model = server.model_entries(engine)[0].name

        async def work(context: "ServerContext") -> str:
            from server.commands.synthesize.answering import EngineAnswerer

            with progress:
                # An empty text, since the caller takes None for an interruption.
                return await self._stopped_reason(EngineAnswerer(context), model, progress) or ""

        try:
            remedy = "run the same command to continue"
            return self._finish(await run_alone(server, engine, templates, began_s, work, remedy=remedy))
        except Interrupted as interrupted:
            self._finish("interrupted; run the same command to continue")
            return interrupted.exit_code
        except EngineStopped:
            raise StartupError("the engine was stopped; run the same command to continue") from None

    async def with_client(self, namespace: argparse.Namespace) -> int:
        """Make the lines with a running server or a teacher; return the exit code."""
        from server.commands.synthesize.answering import BatchAnswerer, TeacherAnswerer
        from server.commands.synthesize.http_client import SynthesisClient

        config = self.config
        model = getattr(namespace, "model", None)
        authorities = trusted_authorities(namespace.ca_file)
        progress = LineProgress(ServerConfig(), self._num_lines, stage=_STAGE)
        if config.teacher_url is not None:
            key, source = os.environ.get(TEACHER_KEY_VARIABLE), TEACHER_KEY_VARIABLE
            url = config.teacher_url
        else:
            assert config.server is not None
            url = config.server
            key, source = client_key(namespace.key_file)
        client = SynthesisClient(url, key, key_source=source, authorities=authorities)
        async with contextlib.aclosing(client):
            if model is None:
                model = await client.only_model()
            answerer: Answerer
            if config.teacher_url is not None:
                answerer = TeacherAnswerer(client, config.teacher_parallel)
            else:
                answerer = BatchAnswerer(client, self._label(model))
            with progress:
                try:
                    reason = await self._stopped_reason(answerer, model, progress)
                except StartupError:
                    self._write()
                    raise
                except asyncio.CancelledError:  # Ctrl-C
                    self._finish("interrupted; run the same command to continue")
                    raise
        return self._finish(reason)

    @property
    def _num_lines(self) -> int:
        return self.config.lines or self.recipe.lines

    def _label(self, model: str) -> str:
        """Return a name of this run for its batches."""
        parts = [self.recipe.name, str(self.config.seed), model, str(self.out.resolve())]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    async def _stopped_reason(self, answerer: "Answerer", model: str, progress: LineProgress) -> str | None:
        """Run the synthesis; return the reason if it stops before all lines are made."""
        from server.commands.synthesize.answering import JournaledAnswers, TokensSpent

        config = self.config
        self.answers = JournaledAnswers(self.journal, answerer, config.max_tokens)
        bounds = Bounds(self._num_lines, config.min_acceptance, config.wave)
        self.synthesis = Synthesis(
            self.recipe,
            self.items,
            config.seed,
            model,
            bounds,
            self.preparation,
            self.answers,
            on_progress=progress.show,
        )
        try:
            async with asyncio.timeout(config.max_time):
                return await self.synthesis.run()
        except TokensSpent:
            return f"--max-tokens {config.max_tokens:,} are spent; a higher bound continues"
        except TimeoutError:
            return "--max-time is over; run the same command to continue"

    def _finish(self, reason: str | None) -> int:
        """Write the lines, report, and return the exit code."""
        self._write()
        synthesis, answers = self.synthesis, self.answers
        if synthesis is None or answers is None:  # interrupted while the model was loading
            say(reason or "")
            return _STOPPED
        sys.stdout.write(f"{acceptance_table(synthesis.counts)}\n")
        sys.stdout.write(
            f"written: {counted(synthesis.num_lines, 'line')} of {counted(synthesis.num_items, 'item')}; "
            f"{answers.num_tokens:,} tokens in {counted(answers.num_computed, 'new answer')}\n"
        )
        if not self.config.against:
            say("no --against file: the lines were not compared with an evaluation")
        if reason:
            say(f"stopped: {reason}")
            return 0 if synthesis.is_exhausted and synthesis.num_lines else _STOPPED
        return 0

    def _write(self) -> None:
        """Write the lines and the report. Raises StartupError."""
        if self.synthesis is None:
            return
        try:
            write_parts_atomically(self.out, (line.data + b"\n" for line in self.preparation.kept))
            if self.config.report is not None:
                report = msgspec.json.format(msgspec.json.encode(self.preparation.finish()), indent=1)
                write_atomically(Path(self.config.report).expanduser(), report + b"\n")
        except OSError as error:
            raise StartupError(f"cannot write {error.filename}: {error.strerror}; name another file") from error


def _listed() -> str:
    recipes = {name: load_recipe(name, {})[0] for name in built_in_recipes()}
    width = max(map(len, recipes))
    return "".join(f"{name:{width}}  {' '.join(each.description.split())}\n" for name, each in recipes.items())


def _shown(name: str) -> str:
    recipes = built_in_recipes()
    if name not in recipes:
        raise OptionError(f"there is no built-in recipe {name!r}; there is {', '.join(recipes)}")
    return recipes[name].read_text(encoding="utf-8")


def _check_files(config: SynthesisConfig, files: Sequence[str]) -> None:
    """Raise OptionError for outputs that would overwrite inputs, and for files that the teacher may not read."""
    taken = {Path(path).expanduser().resolve() for path in (*files, *config.against)}
    for path in filter(None, (config.out, config.report)):
        if Path(path).expanduser().resolve() in taken:
            raise OptionError(f"{path} would be overwritten; name another file")
        if not Path(path).expanduser().parent.is_dir():
            raise OptionError(f"the folder of {path} does not exist; create it, or name another file")
        taken.add(Path(path).expanduser().resolve())
    if config.out is not None and Path(config.out).suffix != ".jsonl":
        raise OptionError(f"{config.out} is not a .jsonl file; name the output with this suffix")
    if config.teacher_url is None:
        return
    allowed = {Path(path).expanduser().resolve() for path in config.teacher_may_read}
    for path in files:
        if Path(path).expanduser().resolve() not in allowed:
            raise OptionError(
                f"text of {path} would be sent to {config.teacher_url}; allow it with --teacher-may-read {path}"
            )


def _check_models(recipe: SynthesisRecipe, config: SynthesisConfig) -> None:
    """Raise OptionError for models by name where the command loads one itself."""
    if config.server is not None or config.teacher_url is not None:
        return
    for step in recipe.steps:
        for model in step.models:
            if name := filled(model, recipe.variables):
                raise OptionError(
                    f"step {step.name} is for the model {name}, and without --server only that of --model is loaded; "
                    "give --server with the URL of a server that has both"
                )


def _preparation(recipe: SynthesisRecipe, config: SynthesisConfig) -> Preparation:
    """Return the filters. Raises OptionError and StartupError."""
    options = PreparationOptions(quality=recipe.quality, decontaminate_against=config.against)
    try:
        check_preparation(options)
    except InvalidRequest as error:
        raise OptionError(str(error)) from None
    preparation = Preparation(options, [config.out or ""], config.seed)
    try:
        for path in config.against:
            check_suffix(path)
            preparation.add_evaluation(Path(path).name, read_lines(path))
    except FaultyLines as error:
        raise StartupError(f"an evaluation file has faulty lines: {error}") from None
    except InvalidRequest as error:
        raise StartupError(f"{path}: {error}") from None
    return preparation
