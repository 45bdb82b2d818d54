"""score_lines: scores of lines by a model that is loaded for them, at the priority of batch lines."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.command_io.finetuning.items import Passage
from engine.errors import EngineStopped, StartupError
from server.commands.alone import Interrupted, LineProgress, run_alone
from server.commands.options.sources import resolve_options
from server.data.preparation import MAX_FAULTS, DataFault, FaultyLines, KeptLine
from server.finetuning.examples import ExampleMaker
from server.finetuning.faults import InvalidLine
from server.finetuning.rendering import Renderer
from server.finetuning.scores.bounds import Scores
from server.finetuning.scores.line_scores import COMPLETIONS, LineScore, LineScorer
from server.text.chat_templates.processes import TemplateProcesses

if TYPE_CHECKING:
    from server.context import ServerContext

_LINES_PER_SLOT = 2  # of the engine, so that a finished line is immediately followed by another


def score_lines(model: str, lines: Sequence[KeptLine], files: Sequence[str]) -> Scores:
    """Load the model and return the scores of the lines. Raises StartupError for a model that cannot be loaded, and
    FaultyLines for lines that a job would refuse."""
    server, engine = resolve_options({"model": model}, os.environ, None)
    progress = LineProgress(server, len(lines))

    async def work(context: "ServerContext") -> Scores:
        with progress:
            return await _scored(context, lines, files, progress)

    async def run(templates: TemplateProcesses) -> Scores:
        remedy = "nothing was written; run the same command again"
        return await run_alone(server, engine, templates, time.monotonic(), work, remedy=remedy)

    with contextlib.closing(TemplateProcesses()) as templates:
        try:
            return asyncio.run(run(templates))
        except Interrupted as interrupted:
            raise SystemExit(interrupted.exit_code) from None


async def _scored(
    context: "ServerContext", lines: Sequence[KeptLine], files: Sequence[str], progress: LineProgress
) -> Scores:
    from server.batches.running import run_body
    from server.keys.caller import ANYBODY

    model = context.models.default
    info = model.client.info
    if not info.generates:
        raise StartupError(f"{model.name} pools texts; --model must generate text to score lines")
    maker = ExampleMaker(Renderer(await model.text_model(), info.max_model_len - 1), None)
    scorer = LineScorer(lambda body: run_body(context, ANYBODY, COMPLETIONS, body), model.name, maker)
    scores: dict[tuple[int, int], LineScore | None] = {}
    faults: list[DataFault] = []
    tokenizing = asyncio.Lock()  # the maker is for one thread at a time

    async def score_some(left: Iterator[KeptLine]) -> None:
        for line in left:
            passages: list[Passage] = []
            try:
                async with tokenizing:
                    passages = await asyncio.to_thread(scorer.passages, line)
            except InvalidLine as error:
                name = f"{files[line.file]}, " if len(files) > 1 else ""
                faults.append(DataFault(f"{name}line {line.number}", line.number, str(error)))
            if len(faults) >= MAX_FAULTS:
                return
            scores[line.file, line.number] = await scorer.score(line, passages)
            progress.show(len(scores))

    left = iter(lines)
    workers = [
        asyncio.create_task(score_some(left)) for _ in range(min(_LINES_PER_SLOT * info.max_num_seqs, len(lines)))
    ]
    try:
        await asyncio.gather(*workers)
    except EngineStopped as error:
        raise StartupError("the engine was stopped; nothing was written") from error
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    if faults:
        raise FaultyLines(faults)
    return scores
