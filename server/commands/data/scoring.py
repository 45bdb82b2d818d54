"""apply_scores: the steps of a preparation that need a model, which is loaded or served elsewhere, or a judge."""

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from engine.command_io.finetuning.graders.definitions import Grader, needed_models
from engine.config import EngineConfig
from engine.errors import EngineStopped, StartupError
from server.commands.alone import REQUESTS_PER_SLOT, Interrupted, LineProgress, in_parallel, run_alone, say
from server.commands.data.server_model import ServerAddress, ServerModel, on_server
from server.commands.options.sources import resolve_options
from server.config.server import ServerConfig
from server.data.memory import TooManyLines
from server.data.preparation import Preparation
from server.finetuning.examples import ExampleMaker
from server.finetuning.rendering import ModelTokens, Renderer
from server.finetuning.scores.bounds import Scores
from server.finetuning.scores.judge import judge_of
from server.finetuning.scores.line_questions import MAX_LINES
from server.finetuning.scores.line_scores import LineScorer
from server.finetuning.scores.model_steps import ModelSteps
from server.jobs.answers import AnswerBodies, BodyAnswer
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.context import ServerContext

T = TypeVar("T")

_LINES_OF_BATCH = 512  # sent to a server together: it looks for a new batch, and this looks for its end, now and then


def apply_scores(
    model: str | None,
    server: ServerAddress | None,
    preparation: Preparation,
    *,
    has_bounds: bool,
    check_removed: Callable[[], None],
) -> Scores:
    """Remove the lines beyond the bounds of a model's scores, and then those that the judge scores too low. Return the
    scores, without bounds none. Unless a server is given or no step needs a model, the model is loaded.

    check_removed: called after each step. Raises StartupError for a model or server that cannot be used, and
    FaultyLines for lines that a job would refuse.
    """
    grader = judge_of(preparation.options)
    judges = [] if grader is None else needed_models(grader)
    if grader is not None and not has_bounds and not judges:
        asyncio.run(ModelSteps(preparation, _answer_nothing, check_removed).judge(grader))
        return {}
    config = ServerConfig()
    if server is None:
        assert model is not None
        config, engine = resolve_options({"model": model}, os.environ, None)
    num_lines = len(preparation.kept)
    scoring, judging = (LineProgress(config, num_lines, stage=stage) for stage in ("score lines", "judge lines"))
    work = _Work(preparation, grader, has_bounds, check_removed, scoring, judging)
    if server is not None:
        return on_server(server, model, work.on_server)
    if judges:
        config = dataclasses.replace(config, served_model_name=tuple(judges))
    return _run_alone(config, engine, work.on_engine)


def apply_semantic(server: ServerAddress | None, preparation: Preparation, check_removed: Callable[[], None]) -> None:
    """Remove the lines that say the same as an earlier one, by the embedding model of the options; it is loaded unless
    a server is given. Raises as `apply_scores` does, also for more lines than the memory has room for."""
    model, config = preparation.options.semantic_model, ServerConfig()
    assert model is not None
    if server is None:
        config, engine = resolve_options({"model": model}, os.environ, None)
        config = dataclasses.replace(config, served_model_name=(model,))
    progress = LineProgress(config, len(preparation.kept), stage="compare lines")

    async def work(answer: AnswerBodies, max_lines: int) -> bool:
        with progress:
            try:
                await ModelSteps(preparation, answer, check_removed, max_lines=max_lines).deduplicate(progress.show)
            except TooManyLines as error:
                raise StartupError(str(error).replace("semantic_model", "--semantic-model")) from None
        return True  # the caller takes None for an interruption

    if server is not None:
        on_server(server, model, lambda served: work(served.answer, _LINES_OF_BATCH))
    else:
        _run_alone(config, engine, lambda context: work(_engine_answers(context), MAX_LINES))


@dataclasses.dataclass(frozen=True, slots=True)
class _Work:
    """The steps, once there is a model that answers."""

    preparation: Preparation
    grader: Grader | None
    has_bounds: bool
    check_removed: Callable[[], None]
    scoring: LineProgress
    judging: LineProgress

    async def on_server(self, served: ServerModel) -> Scores:
        async def scorer() -> LineScorer:
            return LineScorer(await served.name(), await served.maker())

        steps = ModelSteps(self.preparation, served.answer, self.check_removed, max_lines=_LINES_OF_BATCH)
        return await self._run(steps, scorer)

    async def on_engine(self, context: "ServerContext") -> Scores:
        steps = ModelSteps(self.preparation, _engine_answers(context), self.check_removed)
        return await self._run(steps, partial(_engine_scorer, context))

    async def _run(self, steps: ModelSteps, scorer: Callable[[], Coroutine[Any, Any, LineScorer]]) -> Scores:
        scores: Scores = {}
        if self.has_bounds:
            with self.scoring:
                scores = await steps.score(await scorer(), self.scoring.show)
        if self.grader is not None:
            with self.judging:
                await steps.judge(self.grader, self.judging.show)
        return scores


def _run_alone(
    config: ServerConfig, engine: EngineConfig, work: "Callable[[ServerContext], Coroutine[Any, Any, T]]"
) -> T:
    """Load the model, and run the work on it."""

    async def run(templates: TemplateProcesses) -> T:
        remedy = "nothing was written; run the same command again"
        return await run_alone(config, engine, templates, time.monotonic(), work, remedy=remedy)

    with contextlib.closing(TemplateProcesses()) as templates:
        try:
            return asyncio.run(run(templates))
        except Interrupted as interrupted:
            say("interrupted; nothing was written")
            raise SystemExit(interrupted.exit_code) from None
        except EngineStopped as error:
            raise StartupError("the engine was stopped; nothing was written") from error


def _engine_answers(context: "ServerContext") -> AnswerBodies:
    """Return a function that answers bodies on the engine of this process, at the priority of batch lines."""
    from server.batches.running import run_body
    from server.keys.caller import ANYBODY

    num_parallel = REQUESTS_PER_SLOT * context.models.default.client.info.max_num_seqs

    async def answer(path: str, bodies: Sequence[dict[str, Any]]) -> list[BodyAnswer]:
        answers: dict[int, BodyAnswer] = {}

        async def one(place: int) -> None:
            answers[place] = await run_body(context, ANYBODY, path, bodies[place])

        await in_parallel(range(len(bodies)), one, num_parallel)
        return [answers[place] for place in range(len(bodies))]

    return answer


async def _answer_nothing(_path: str, _bodies: Sequence[dict[str, Any]]) -> list[BodyAnswer]:
    raise AssertionError("a grader without models asks nothing")


async def _engine_scorer(context: "ServerContext") -> LineScorer:
    model = context.models.default
    info = model.client.info
    if not info.generates:
        raise StartupError(f"{model.name} pools texts; --model must generate text to score lines")
    tokens = ModelTokens(await model.text_model())
    return LineScorer(model.name, ExampleMaker(Renderer(tokens, info.max_model_len), None))
