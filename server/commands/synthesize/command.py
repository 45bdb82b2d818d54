"""`headrace synthesize`: the command, from its options to its exit code."""

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.child_processes.log_format import configure_logging
from engine.command_io.finetuning.job import write_atomically, write_parts_atomically
from engine.config import EngineConfig
from engine.errors import EngineStopped, OptionError, StartupError
from engine.wording import counted
from server.commands.alone import Interrupted, LineProgress, run_alone, say
from server.commands.chat.connecting import client_key, trusted_authorities
from server.commands.options.arguments import build_config
from server.commands.options.definitions import OPTIONS
from server.commands.options.sources import names_model, options_file, resolve_options
from server.commands.synthesize.arguments import TEACHER_KEY_VARIABLE, SynthesisConfig, synthesize_parser
from server.commands.synthesize.checking import check_files, check_steps, open_filters, served_models, taught_steps
from server.commands.synthesize.journal import SUFFIX, AnswerJournal, RunName
from server.config.server import ServerConfig
from server.data.preparation import Preparation
from server.synthesis.counts import acceptance_table
from server.synthesis.recipe import SynthesisRecipe
from server.synthesis.recipe_file import built_in_recipes, load_recipe, recipe_digest
from server.synthesis.sources import Items, open_source
from server.synthesis.synthesis import Bounds, Synthesis
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.commands.synthesize.answering import Answerer, JournaledAnswers
    from server.commands.synthesize.http_client import SynthesisClient
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
    if namespace.recipe is None or (given_out := config.out) is None:
        raise OptionError("RECIPE or --out is missing; usage: headrace synthesize RECIPE --model MODEL --out FILE")
    recipe, path = load_recipe(namespace.recipe, config.variables)
    files = config.input or tuple(str(path.parent / name) for name in recipe.source.files)
    against = (*(str(path.parent / name) for name in recipe.against), *config.against)
    config = dataclasses.replace(config, against=tuple(dict.fromkeys(against)))
    check_files(config, files)
    check_steps(recipe, config)
    preparation = open_filters(recipe, config)
    items = open_source(recipe.source, files, config.seed)
    out = Path(given_out).expanduser()
    journal_path = out.with_name(out.name + SUFFIX)
    if out.exists() and not journal_path.exists():
        raise OptionError(f"{out} exists and has no journal, so it is not of a synthesis; name another --out")
    needs_engine = config.server is None and (config.teacher_url is None or bool(config.teacher_steps))
    if needs_engine and not names_model(vars(namespace), os.environ, options_file(namespace.config)):
        raise OptionError(
            "no model given; name one to load with --model MODEL, or a running server with --server URL"
            f"{'' if config.teacher_steps else ', or another endpoint with --teacher-url URL'}"
        )
    run_name = RunName(recipe.name, config.seed, recipe_digest(path))
    with contextlib.closing(AnswerJournal(str(journal_path), run_name, has_changed=config.recipe_changed)) as journal:
        if len(journal):
            say(f"{journal_path} has {counted(len(journal), 'answer')}, which are not computed again")
        work = _Run(config, namespace, recipe, items, preparation, journal, out)
        if config.teacher_url is not None:
            asyncio.run(work.check_teacher())
        if needs_engine:
            return work.with_engine(began_s)
        return asyncio.run(work.with_client())


@dataclasses.dataclass
class _Run:
    """A checked command. Its synthesis is made when the model's name is known."""

    config: SynthesisConfig
    namespace: argparse.Namespace
    recipe: SynthesisRecipe
    items: Items
    preparation: Preparation
    journal: AnswerJournal
    out: Path
    synthesis: Synthesis | None = None
    answers: "JournaledAnswers | None" = None

    def with_engine(self, began_s: float) -> int:
        """Make the lines with an engine of this process; return the exit code."""
        flags = {name: value for name, value in vars(self.namespace).items() if name in OPTIONS}
        server, engine = resolve_options(flags, os.environ, options_file(self.namespace.config))
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
        except StartupError:  # of the engine or a teacher
            self._write()
            raise
        except EngineStopped:
            self._write()
            raise StartupError("the engine was stopped; run the same command to continue") from None

    async def check_teacher(self) -> None:
        """Check the teacher's address and model before an engine is loaded or a step is computed. Raises OptionError
        for an address that does not answer, or several models if none is named, and StartupError."""
        is_shared = bool(self.config.teacher_steps)
        model = self.config.teacher_model if is_shared else getattr(self.namespace, "model", None)
        async with contextlib.aclosing(self._teacher_client()) as client:
            if model is None:
                await client.only_model("--teacher-model" if is_shared else "--model")
            else:
                await client.warn_of_unlisted(model)

    async def with_client(self) -> int:
        """Make the lines with a running server or a teacher; return the exit code."""
        from server.commands.synthesize.answering import BatchAnswerer, TeacherAnswerer
        from server.commands.synthesize.http_client import SynthesisClient

        config = self.config
        model = getattr(self.namespace, "model", None)
        progress = LineProgress(ServerConfig(), self._num_lines, stage=_STAGE)
        if config.server is None:
            client = self._teacher_client()
        else:
            key, source = client_key(self.namespace.key_file)
            authorities = trusted_authorities(self.namespace.ca_file)
            client = SynthesisClient(config.server, key, key_source=source, authorities=authorities)
        async with contextlib.aclosing(client):
            if model is None:
                model = await client.only_model()
            answerer: Answerer
            if config.server is None:
                answerer = TeacherAnswerer(client, config.teacher_parallel)
            else:
                await client.check_models(served_models(self.recipe, config, model))
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

    def _teacher_client(self) -> "SynthesisClient":
        from server.commands.synthesize.http_client import SynthesisClient

        assert self.config.teacher_url is not None
        key, authorities = os.environ.get(TEACHER_KEY_VARIABLE), trusted_authorities(self.namespace.ca_file)
        return SynthesisClient(self.config.teacher_url, key, key_source=TEACHER_KEY_VARIABLE, authorities=authorities)

    @property
    def _num_lines(self) -> int:
        return self.config.lines or self.recipe.lines

    def _label(self, model: str) -> str:
        """Return a name of this run for its batches."""
        parts = [self.recipe.name, str(self.config.seed), model, str(self.out.resolve())]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    async def _stopped_reason(self, answerer: "Answerer", model: str, progress: LineProgress) -> str | None:
        """Run the synthesis; return the reason if it stops before all lines are made."""
        from server.commands.synthesize.answering import SharedAnswerer, TeacherAnswerer

        config = self.config
        if not config.teacher_steps:
            return await self._run_synthesis(answerer, model, {}, progress)
        async with contextlib.aclosing(self._teacher_client()) as client:
            teacher = config.teacher_model or await client.only_model()
            teaching = TeacherAnswerer(client, config.teacher_parallel)
            shared = SharedAnswerer(answerer, teaching, config.teacher_steps)
            return await self._run_synthesis(shared, model, dict.fromkeys(config.teacher_steps, teacher), progress)

    async def _run_synthesis(
        self, answerer: "Answerer", model: str, step_models: Mapping[str, str], progress: LineProgress
    ) -> str | None:
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
            taught=taught_steps(self.recipe, config),
            step_models=step_models,
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
            sys.stdout.write(
                "NOT compared with an evaluation, since none is named: give its files with --against, or as the "
                "recipe's against\n"
            )
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
