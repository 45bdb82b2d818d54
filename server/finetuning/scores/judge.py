"""Judge: grades the answers of lines by a grader of the graders API, and removes those below a least score."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from engine.command_io.finetuning.graders.definitions import Grader
from engine.command_io.finetuning.graders.faults import FaultKind
from engine.command_io.finetuning.graders.grading import Grade, Grading
from engine.command_io.finetuning.graders.sample import Sample
from engine.errors import StartupError
from server.data.lines import LineKind, parse_line
from server.data.preparation import KeptLine, Preparation
from server.finetuning.scores.bounds import score_spread
from server.finetuning.scoring import chat_body, read_chat_score
from server.jobs.answers import BodyAnswer

AskChat = Callable[[dict[str, Any]], Awaitable[BodyAnswer]]  # answers a chat request
Grades = Mapping[tuple[int, int], Grade | None]  # by file and line number

_RULE = "judge"
_DECIMALS = 4


async def grade_line(grader: Grader, line: KeptLine, ask: AskChat) -> Grade | None:
    """Return the grade of a line's last answer, of the preferred one, or of a plain text; None for a prompt. The item
    has the line's fields, and the texts before the answer as `question`. Raises StartupError if the model fails."""
    if line.kind is LineKind.PROMPT:
        return None
    parsed, _ = parse_line(line.data, line.number, line.file)
    if line.kind is LineKind.TEXT:
        answer, turns = parsed.value["text"], []
    elif line.kind is LineKind.PREFERENCE:
        answer, turns = parsed.answers[0], parsed.turns
    else:
        answer, turns = parsed.answers[-1], parsed.turns[:-1]
    question = "\n\n".join(turn.text for turn in turns)
    grading = Grading(grader, {"question": question, **parsed.value}, Sample(answer))
    answers = {path: read_chat_score(await ask(chat_body(each))) for path, each in grading.questions.items()}
    grade = grading.grade(answers)
    for fault in grade.faults:
        if fault.kind is FaultKind.MODEL_SERVER:
            raise StartupError(f"line {line.number} cannot be judged: {fault.message}")
    return grade


def remove_below(preparation: Preparation, grades: Grades, min_score: float) -> None:
    """Remove the kept lines with a lower score, and add the scores to the report. An answer that the grader cannot
    grade has the score 0."""
    removed: dict[int, tuple[str, str]] = {}
    rewards = []
    for index, line in enumerate(preparation.kept):
        grade = grades[line.file, line.number]
        if grade is None:
            continue
        reward = round(grade.reward, _DECIMALS) if math.isfinite(grade.reward) else 0.0
        rewards.append(reward)
        if reward < min_score:
            reasons = "".join(f"; {fault.message}" for fault in grade.faults[:1])
            removed[index] = _RULE, f"score {reward:g}; at least {min_score:g}{reasons}"
    if rewards:
        preparation.report.scores[_RULE] = score_spread(sorted(rewards))
    preparation.remove_kept(removed, {_RULE: len(rewards)})
