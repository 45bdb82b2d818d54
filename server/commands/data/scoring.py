"""apply_scores: the steps of a preparation that need a model, which is loaded for them, or a judge."""

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.command_io.finetuning.graders.definitions import Grader, needed_models
from engine.command_io.finetuning.graders.grading import Grade
from engine.command_io.finetuning.graders.parsing import parse_grader
from engine.errors import EngineStopped, StartupError
from server.commands.alone import REQUESTS_PER_SLOT, Interrupted, LineProgress, in_parallel, run_alone, say
from server.commands.options.sources import resolve_options
from server.data.preparation import MAX_FAULTS, DataFault, FaultyLines, KeptLine, Preparation
from server.finetuning.examples import ExampleMaker
from server.finetuning.faults import InvalidLine
from server.finetuning.rendering import Renderer
from server.finetuning.scores.bounds import Scores, remove_beyond
from server.finetuning.scores.judge import AskChat, grade_line, remove_below
from server.finetuning.scores.line_scores import COMPLETIONS, LineScore, LineScorer
from server.finetuning.scoring import ENDPOINT
from server.jobs.answers import BodyAnswer
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
    judge = preparation.options.judge
    grader = None if judge is None else parse_grader(judge, "judge")
    models = [] if grader is None else needed_models(grader)
    if grader is not None and not has_bounds and not models:
        asyncio.run(_judge(preparation, grader, _answer_nothing, 1, lambda _: None))
        check_removed()
        return {}
    assert model is not None
    server, engine = resolve_options({"model": model}, os.environ, None)
    if models:
        server = dataclasses.replace(server, served_model_name=tuple(models))
    scoring, judging = (
        LineProgress(server, len(preparation.kept), stage=stage) for stage in ("score lines", "judge lines")
    )

    async def work(context: "ServerContext") -> Scores:
        num_parallel = REQUESTS_PER_SLOT * context.models.default.client.info.max_num_seqs
        scores: Scores = {}
        if has_bounds:
            with scoring:
                scores = await _scored(context, preparation, num_parallel, scoring.show)
            remove_beyond(preparation, scores)
            check_removed()
        if grader is not None:
            with judging:
                await _judge(preparation, grader, _asker(context, ENDPOINT), num_parallel, judging.show)
            check_removed()
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


def _asker(context: "ServerContext", path: str) -> AskChat:
    """Return a function that answers bodies at the priority of batch lines."""
    from server.batches.running import run_body
    from server.keys.caller import ANYBODY

    return lambda body: run_body(context, ANYBODY, path, body)


async def _answer_nothing(_: dict[str, Any]) -> BodyAnswer:
    raise AssertionError("a grader without models asks nothing")


async def _judge(
    preparation: Preparation, grader: Grader, ask: AskChat, num_parallel: int, show: Callable[[int], None]
) -> None:
    """Grade the kept lines, and remove those with a score below `min_score`."""
    least = preparation.options.min_score
    assert least is not None
    grades: dict[tuple[int, int], Grade | None] = {}

    async def grade(line: KeptLine) -> None:
        grades[line.file, line.number] = await grade_line(grader, line, ask)
        show(len(grades))

    await in_parallel(preparation.kept, grade, num_parallel)
    remove_below(preparation, grades, least)


async def _scored(
    context: "ServerContext", preparation: Preparation, num_parallel: int, show: Callable[[int], None]
) -> Scores:
    model, files = context.models.default, preparation.files
    info = model.client.info
    if not info.generates:
        raise StartupError(f"{model.name} pools texts; --model must generate text to score lines")
    maker = ExampleMaker(Renderer(await model.text_model(), info.max_model_len - 1), None)
    scorer = LineScorer(_asker(context, COMPLETIONS), model.name, maker)
    scores: dict[tuple[int, int], LineScore | None] = {}
    faults: list[DataFault] = []
    tokenizing = asyncio.Lock()  # the maker is for one thread at a time

    async def score(line: KeptLine) -> None:
        try:
            async with tokenizing:
                passages = await asyncio.to_thread(scorer.passages, line)
        except InvalidLine as error:
            name = f"{files[line.file]}, " if len(files) > 1 else ""
            faults.append(DataFault(f"{name}line {line.number}", line.number, str(error)))
            if len(faults) >= MAX_FAULTS:
                raise FaultyLines(faults) from None
            return
        scores[line.file, line.number] = await scorer.score(line, passages)
        show(len(scores))

    await in_parallel(preparation.kept, score, num_parallel)
    if faults:
        raise FaultyLines(faults)
    return scores
