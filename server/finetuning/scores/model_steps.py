"""ModelSteps: the steps of a preparation that models answer, in a job and in the command."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from engine.command_io.finetuning.graders.definitions import Grader
from server.data.preparation import MAX_FAULTS, DataFault, FaultyLines, KeptLine, Preparation
from server.finetuning.faults import InvalidLine
from server.finetuning.scores.bounds import Scores, remove_beyond
from server.finetuning.scores.judge import JUDGE, judge_question, remove_below
from server.finetuning.scores.line_questions import MAX_LINES, AnswerLog, LineQuestion, Values, ask_lines
from server.finetuning.scores.line_scores import COMPLETIONS, LineScore, LineScorer
from server.finetuning.scores.semantic import EMBEDDINGS, SemanticDuplicates
from server.finetuning.scoring import ENDPOINT
from server.jobs.answers import AnswerBodies

Show = Callable[[int], None]  # the number of lines that are done


@dataclass(frozen=True, slots=True)
class ModelSteps:
    """Scores and removes lines that passed the other steps. answer: sends requests, at the priority of batch lines.
    check_removed: called after each step; raises an error if too many lines are removed. max_lines: lines whose
    requests are sent together."""

    preparation: Preparation
    answer: AnswerBodies
    check_removed: Callable[[], None]
    log: AnswerLog = field(default_factory=AnswerLog)
    max_lines: int = MAX_LINES

    async def score(self, scorer: LineScorer, show: Show = lambda _: None) -> Scores:
        """Remove the lines beyond the bounds of the scores, and return all scores. Raises FaultyLines for lines that a
        job would refuse, StartupError if the model fails, and errors of `check_removed`."""
        values = await self._values("score", COMPLETIONS, scorer.question, show)
        scores = {line: None if value is None else LineScore(*value) for line, value in values.items()}
        remove_beyond(self.preparation, scores)
        self.check_removed()
        return scores

    async def deduplicate(self, show: Show = lambda _: None) -> None:
        """Remove the lines that say the same as an earlier one, by the vectors of `semantic_model`. Raises as `score`
        does, and TooManyLines for more vectors than the memory has room for."""
        duplicates = SemanticDuplicates(self.preparation)
        duplicates.remove(await self._values("embed", EMBEDDINGS, duplicates.question, show))
        self.check_removed()

    async def judge(self, grader: Grader, show: Show = lambda _: None) -> None:
        """Remove the lines whose answers the grader scores too low. Raises as `score` does."""
        remove_below(self.preparation, await self._values(JUDGE, ENDPOINT, partial(judge_question, grader), show))
        self.check_removed()

    async def _values(
        self, step: str, path: str, question: Callable[[KeptLine], LineQuestion | None], show: Show
    ) -> Values:
        """Ask about all kept lines; return their values. Raises FaultyLines for those that `question` refuses."""
        faults: list[DataFault] = []
        files = self.preparation.files

        def ask(line: KeptLine) -> LineQuestion | None:
            try:
                return question(line)
            except InvalidLine as error:
                name = f"{files[line.file]}, " if len(files) > 1 else ""
                faults.append(DataFault(f"{name}line {line.number}", line.number, str(error)))
                if len(faults) >= MAX_FAULTS:
                    raise FaultyLines(faults) from None
                return None

        values = await ask_lines(step, path, self.preparation.kept, ask, self.answer, self.log, show, self.max_lines)
        if faults:
            raise FaultyLines(faults)
        return values
