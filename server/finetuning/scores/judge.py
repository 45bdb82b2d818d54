"""Judge: grades the answers of lines by a grader of the graders API, and removes those below a least score."""

import math
from collections.abc import Sequence

from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.command_io.finetuning.graders.definitions import Grader, Multi, ScoreModel
from engine.command_io.finetuning.graders.faults import FaultKind
from engine.command_io.finetuning.graders.grading import Grading
from engine.command_io.finetuning.graders.parsing import parse_grader
from engine.command_io.finetuning.graders.sample import Sample
from engine.errors import InvalidRequest, StartupError
from server.data.lines import LineKind, parse_line
from server.data.preparation import KeptLine, Preparation
from server.finetuning.prompt_lines import check_item
from server.finetuning.scores.bounds import score_spread
from server.finetuning.scores.line_questions import LineQuestion, Values, too_long_reason
from server.finetuning.scoring import chat_body, check_samples, read_chat_score
from server.jobs.answers import BodyAnswer

JUDGE = "judge"  # the rule, and the option
_TOO_LONG = "judge_too_long"  # the rule of lines that the judge cannot read
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
    if fault := score_fault(grader, options.min_score):
        raise InvalidRequest.of(f"{path}min_score", f"is {options.min_score:g}; {path}{JUDGE} {fault}")
    return grader


def score_fault(grader: Grader, least: float) -> str | None:
    """Return what is wrong with a least score that all answers or none reach; None if nothing is known to be."""
    match grader:
        case ScoreModel():
            low, high = grader.low, grader.high
        case Multi():  # its formula may have any value
            return None
        case _:
            low, high = 0.0, 1.0
    if low <= least <= high:
        return None
    return f"scores from {low:g} to {high:g}, so {'no' if least > high else 'each'} line would pass; give one of these"


def judge_question(grader: Grader, line: KeptLine) -> LineQuestion | None:
    """Return the requests that grade a line's last answer, the preferred one, or a plain text; None for a prompt. The
    item has the line's fields, and the texts before the answer as `question`. The value is the grade and its fault; no
    grade for a line that is longer than the judge's context. Raises InvalidLine if the grader reads a field that the
    line lacks."""
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

    def read(answers: Sequence[BodyAnswer]) -> tuple[float | None, str]:
        if reason := next(filter(None, map(too_long_reason, answers)), None):
            return None, reason
        grade = grading.grade(dict(zip(grading.questions, map(read_chat_score, answers), strict=True)))
        for fault in grade.faults:
            if fault.kind is FaultKind.MODEL_SERVER:
                raise StartupError(f"line {line.number} cannot be judged: {fault.message}")
        reward = round(grade.reward, _DECIMALS) if math.isfinite(grade.reward) else 0.0
        return reward, next((fault.message for fault in grade.faults), "")

    return LineQuestion([chat_body(each) for each in grading.questions.values()], read)


def remove_below(preparation: Preparation, grades: Values) -> None:
    """Remove the kept lines with a score below `min_score` or without one, since they are too long for the judge, and
    add the scores to the report. An answer that the grader cannot grade has the score 0."""
    least = preparation.options.min_score
    assert least is not None
    removed: dict[int, tuple[str, str]] = {}
    rewards = []
    for index, line in enumerate(preparation.kept):
        grade = grades[line.file, line.number]
        if grade is None:
            continue
        reward, fault = grade
        if reward is None:
            removed[index] = _TOO_LONG, fault
            continue
        rewards.append(reward)
        if reward < least:
            reason = f"; {fault}" if fault else ""
            removed[index] = JUDGE, f"score {reward:g}; at least {least:g}{reason}"
    if rewards:
        preparation.report.scores[JUDGE] = score_spread(sorted(rewards))
    num_judged = len(rewards) + sum(rule == _TOO_LONG for rule, _ in removed.values())
    preparation.remove_kept(removed, {JUDGE: len(rewards), _TOO_LONG: num_judged})
