"""What events say of a step's grades."""

import pytest

from engine.command_io.finetuning.graders.definitions import GraderType
from engine.command_io.finetuning.graders.faults import FaultKind, GradingFault
from engine.command_io.finetuning.graders.grading import Grade, PartGrade
from engine.command_io.finetuning.items import GradedPrompt
from engine.finetuning.reinforcement.report import all_at_fault, rollout_figures
from engine.finetuning.reinforcement.rollouts import Rollout

ROLLOUT = Rollout(GradedPrompt([1], {}, 1), [2], "two", is_complete=True)


def _grade(reward: float, fault: FaultKind | None = None) -> Grade:
    return Grade(
        PartGrade("", "judge", GraderType.SCORE_MODEL, reward, None if fault is None else GradingFault(fault, "why"))
    )


@pytest.mark.parametrize(
    ("fault", "mean"), [(FaultKind.MODEL_SERVER, 0.5), (FaultKind.MODEL_PARSE, 0.25), (FaultKind.OTHER, 0.25)]
)
def test_scores_leave_out_answers_whose_model_could_not_be_asked(fault: FaultKind, mean: float) -> None:
    """A grader's mean and the step's are over the same answers."""
    scores = rollout_figures([ROLLOUT] * 2, [_grade(0.5), _grade(0.0, fault)], 2)["scores"]
    assert scores["graders"] == [{"name": "judge", "type": "score_model", "train_reward_mean": mean}]
    assert scores["train_reward_mean"] == mean


def test_there_is_no_mean_where_no_answer_was_graded() -> None:
    scores = rollout_figures([ROLLOUT] * 2, [_grade(0.0, FaultKind.MODEL_SERVER)] * 2, 2)["scores"]
    assert scores["graders"][0]["train_reward_mean"] is scores["train_reward_mean"] is None


@pytest.mark.parametrize(
    ("faults", "warning"),
    [
        ([FaultKind.MODEL_SERVER] * 2, "All 2 answers of step 3 have no reward (2 model_grader_server_error): why"),
        (
            [FaultKind.MODEL_SERVER, FaultKind.MODEL_PARSE],
            "All 2 answers of step 3 have no reward or the reward 0 "
            "(1 model_grader_server_error, 1 model_grader_parse_error): why",
        ),
        ([FaultKind.OTHER, None], None),
    ],
)
def test_a_step_is_warned_of_if_all_its_answers_have_a_fault(
    faults: list[FaultKind | None], warning: str | None
) -> None:
    assert all_at_fault(3, [_grade(0.0, fault) for fault in faults]) == warning


def test_a_part_that_could_not_be_asked_leaves_the_whole_without_a_reward() -> None:
    whole = PartGrade("", "both", GraderType.MULTI, 0.5)
    part = PartGrade("a", "judge", GraderType.SCORE_MODEL, 0.0, GradingFault(FaultKind.MODEL_SERVER, "why"))
    unparsed = PartGrade("a", "judge", GraderType.SCORE_MODEL, 0.0, GradingFault(FaultKind.MODEL_PARSE, "why"))
    assert all_at_fault(1, [Grade(whole, (part,))]) is not None
    assert all_at_fault(1, [Grade(whole, (unparsed,))]) is None
