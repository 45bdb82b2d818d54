"""apply_scores: the steps of a preparation that need a model, which is loaded for them, or a judge."""

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engine.command_io.finetuning.graders.definitions import needed_models
from engine.errors import EngineStopped, StartupError
from server.commands.alone import REQUESTS_PER_SLOT, Interrupted, LineProgress, in_parallel, run_alone, say
from server.commands.options.sources import resolve_options
from server.data.preparation import Preparation
from server.finetuning.examples import ExampleMaker
from server.finetuning.rendering import Renderer
from server.finetuning.scores.bounds import Scores
from server.finetuning.scores.judge import judge_of
from server.finetuning.scores.line_scores import LineScorer
from server.finetuning.scores.model_steps import ModelSteps
from server.jobs.answers import AnswerBodies, BodyAnswer
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.context import ServerContext


def apply_scores(
    model: str | None, preparation: Preparation, *, has_bounds: bool, check_removed: Callable[[], None]
) -> Scores:
    """Load the model, unless no step needs it; remove the lines beyond the bounds of its scores, and then those that
    the judge scores too low. Return the scores, without bounds none.

    check_removed: called after each step. Raises StartupError for a model that cannot be loaded, and FaultyLines for
    lines that a job would refuse.
    """
    grader = judge_of(preparation.options)
    models = [] if grader is None else needed_models(grader)
    if grader is not None and not has_bounds and not models:
        asyncio.run(ModelSteps(preparation, _answer_nothing, check_removed).judge(grader))
        return {}
    assert model is not None
    server, engine = resolve_options({"model": model}, os.environ, None)
    if models:
        server = dataclasses.replace(server, served_model_name=tuple(models))
    scoring, judging = (
        LineProgress(server, len(preparation.kept), stage=stage) for stage in ("score lines", "judge lines")
    )

    async def work(context: "ServerContext") -> Scores:
        steps = ModelSteps(preparation, _engine_answers(context), check_removed)
        scores: Scores = {}
        if has_bounds:
            with scoring:
                scores = await steps.score(await _scorer(context), scoring.show)
        if grader is not None:
            with judging:
                await steps.judge(grader, judging.show)
        return scores

    async def run(templates: TemplateProcesses) -> Scores:
        remedy = "nothing was written; run the same command again"
        return await run_alone(server, engine, templates, time.monotonic(), work, remedy=remedy)

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


async def _scorer(context: "ServerContext") -> LineScorer:
    model = context.models.default
    info = model.client.info
    if not info.generates:
        raise StartupError(f"{model.name} pools texts; --model must generate text to score lines")
    return LineScorer(model.name, ExampleMaker(Renderer(await model.text_model(), info.max_model_len), None))
