"""What events say of a step's grades."""

import pytest

from engine.finetune.reinforcement.report import rollout_figures
from engine.finetune.reinforcement.rollouts import Rollout
from engine.jobs.finetune.graders.definitions import GraderType
from engine.jobs.finetune.graders.faults import Fault, FaultKind
from engine.jobs.finetune.graders.grading import Grade, PartGrade
from engine.jobs.finetune.items import GradedPrompt

ROLLOUT = Rollout(GradedPrompt([1], {}, 1), [2], "two", is_complete=True)


def _grade(reward: float, fault: FaultKind | None = None) -> Grade:
    return Grade(PartGrade("", "judge", GraderType.SCORE_MODEL, reward, None if fault is None else Fault(fault, "why")))


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
