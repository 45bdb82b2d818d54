"""Judge: grades the answers of lines by a grader of the graders API, and removes those below a least score."""

import math
from collections.abc import Sequence

from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.command_io.finetuning.graders.definitions import Grader, ScoreModel
from engine.command_io.finetuning.graders.faults import FaultKind
from engine.command_io.finetuning.graders.grading import Grading
from engine.command_io.finetuning.graders.parsing import parse_grader
from engine.command_io.finetuning.graders.sample import Sample
from engine.errors import InvalidRequest, StartupError
from server.data.lines import LineKind, parse_line
from server.data.preparation import KeptLine, Preparation
from server.finetuning.prompt_lines import check_item
from server.finetuning.scores.bounds import score_spread
from server.finetuning.scores.line_questions import LineQuestion, Values
from server.finetuning.scoring import chat_body, check_samples, read_chat_score
from server.jobs.answers import BodyAnswer

JUDGE = "judge"  # the rule, and the option
_DECIMALS = 4


def judge_of(options: PreparationOptions, path: str = "") -> Grader | None:
    """Return the grader that judges; None without one. Raises InvalidRequest if it is invalid, or has no least score
    that an answer can reach. path: of the options' field, with a dot at its end."""
    if options.judge is None and options.min_score is None:
        return None
    if options.judge is None or options.min_score is None:
        raise InvalidRequest.of(f"{path}{JUDGE}", "and min_score, the least score by it, need each other; give both")
    if not math.isfinite(options.min_score):
        raise InvalidRequest.of(f"{path}min_score", f"is {options.min_score}; it must be a number")
    grader = parse_grader(options.judge, f"{path}{JUDGE}")
    check_samples(grader, f"{path}{JUDGE}")
    if isinstance(grader, ScoreModel) and options.min_score > grader.high:
        raise InvalidRequest.of(
            f"{path}min_score",
            f"is {options.min_score:g}, above {grader.high:g}, the most of the range of {path}{JUDGE}; give a smaller "
            "one",
        )
    return grader


def judge_question(grader: Grader, line: KeptLine) -> LineQuestion | None:
    """Return the requests that grade a line's last answer, the preferred one, or a plain text; None for a prompt. The
    item has the line's fields, and the texts before the answer as `question`. The value is the grade and its fault.
    Raises InvalidLine if the grader reads a field that the line lacks."""
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
    item = {"question": question, **parsed.value}
    check_item(grader, item)
    grading = Grading(grader, item, Sample(answer))

    def read(answers: Sequence[BodyAnswer]) -> tuple[float, str]:
        grade = grading.grade(dict(zip(grading.questions, map(read_chat_score, answers), strict=True)))
        for fault in grade.faults:
            if fault.kind is FaultKind.MODEL_SERVER:
                raise StartupError(f"line {line.number} cannot be judged: {fault.message}")
        reward = round(grade.reward, _DECIMALS) if math.isfinite(grade.reward) else 0.0
        return reward, next((fault.message for fault in grade.faults), "")

    return LineQuestion([chat_body(each) for each in grading.questions.values()], read)


def remove_below(preparation: Preparation, grades: Values) -> None:
    """Remove the kept lines with a score below `min_score`, and add the scores to the report. An answer that the grader
    cannot grade has the score 0."""
    least = preparation.options.min_score
    assert least is not None
    removed: dict[int, tuple[str, str]] = {}
    rewards = []
    for index, line in enumerate(preparation.kept):
        grade = grades[line.file, line.number]
        if grade is None:
            continue
        reward, fault = grade
        rewards.append(reward)
        if reward < least:
            reason = f"; {fault}" if fault else ""
            removed[index] = JUDGE, f"score {reward:g}; at least {least:g}{reason}"
    if rewards:
        preparation.report.scores[JUDGE] = score_spread(sorted(rewards))
    preparation.remove_kept(removed, {JUDGE: len(rewards)})
