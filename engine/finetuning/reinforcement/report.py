"""Statistics of a step's answers and grades, under OpenAI's names for fine-tuning events."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from engine.command_io.finetuning.graders.faults import FaultKind, GradingFault
from engine.command_io.finetuning.graders.grading import Grade, PartGrade
from engine.finetuning.reinforcement.advantages import has_signal, spread
from engine.finetuning.reinforcement.rollouts import Rollout

_MAX_SHOWN = 500  # characters of an answer


def reward_of(grade: Grade) -> float | None:
    """Return an answer's reward; None if a grading model could not be reached."""
    return None if any(fault.kind is FaultKind.MODEL_SERVER for fault in grade.faults) else grade.reward


def mean_reward(grades: Sequence[Grade]) -> float | None:
    """Return the mean reward over the answers that have a reward; None if no answer has one."""
    rewards = [reward for grade in grades if (reward := reward_of(grade)) is not None]
    return sum(rewards) / len(rewards) if rewards else None


def fault_of(grade: Grade) -> GradingFault | None:
    """Return why an answer could not be graded; None if it was. A failed part of a multi-grader does not count, unless
    its model could not be reached."""
    of_model = (fault for fault in grade.faults if fault.kind is FaultKind.MODEL_SERVER)
    return next(of_model, grade.whole.fault)


def all_at_fault(step: int, grades: Sequence[Grade]) -> str | None:
    """Return a warning if no answer of a step could be graded. step: counted from 1."""
    faults = [fault for grade in grades if (fault := fault_of(grade)) is not None]
    if len(faults) < len(grades):
        return None
    counts = Counter(fault.kind for fault in faults)
    given = " or ".join(sorted({"no reward" if reward_of(grade) is None else "the reward 0" for grade in grades}))
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return f"All {len(grades):,} answers of step {step} have {given} ({kinds}): {faults[0].message}"


def rollout_figures(rollouts: Sequence[Rollout], grades: Sequence[Grade], group_size: int) -> dict[str, Any]:
    """Return a step's statistics, except the mean reward, for the event's `data`. rollouts: sorted by group."""
    rewards = [reward_of(grade) for grade in grades]
    groups = [rewards[start : start + group_size] for start in range(0, len(rewards), group_size)]
    num_tokens = sum(len(rollout.ids) for rollout in rollouts)
    return {
        "reward_std": sum(map(spread, groups)) / len(groups),
        "groups": len(groups),
        "groups_without_signal": sum(not has_signal(group) for group in groups),
        "usage": {
            "samples": {
                "train_completion_tokens_mean": num_tokens / len(rollouts),
                "train_completion_tokens_count": num_tokens,
            }
        },
        "scores": {"graders": _scores(grades), "train_reward_mean": mean_reward(grades)},
        "errors": {"graders": _errors(grades)},
        "samples": _best_and_worst(rollouts, rewards),
    }


def _scores(grades: Sequence[Grade]) -> list[dict[str, Any]]:
    """Return each grader's mean reward, without answers for which its model could not be reached."""
    found = []
    for column in _by_grader(grades):
        rewards = [
            each.reward for each in column if each.fault is None or each.fault.kind is not FaultKind.MODEL_SERVER
        ]
        mean = sum(rewards) / len(rewards) if rewards else None
        found.append({"name": column[0].name, "type": column[0].type, "train_reward_mean": mean})
    return found


def _errors(grades: Sequence[Grade]) -> list[dict[str, Any]]:
    found = []
    for column in _by_grader(grades):
        counts = Counter(each.fault.kind for each in column if each.fault is not None)
        entry: dict[str, Any] = {"name": column[0].name, "type": column[0].type}
        for kind in FaultKind:
            entry[f"train_{kind}_count"] = counts[kind]
            entry[f"train_{kind}_mean"] = counts[kind] / len(column)
        found.append(entry)
    return found


def _by_grader(grades: Sequence[Grade]) -> list[tuple[PartGrade, ...]]:
    return list(zip(*((grade.whole, *grade.parts) for grade in grades), strict=True))


def _best_and_worst(rollouts: Sequence[Rollout], rewards: Sequence[float | None]) -> list[dict[str, Any]]:
    """Return the answers with the highest and the lowest reward, so that a person can spot a grader that rewards bad
    answers."""
    graded = [(reward, number) for number, reward in enumerate(rewards) if reward is not None]
    if not graded:
        return []
    chosen = (max(graded), min(graded))
    return [
        {"line": rollouts[number].prompt.line, "reward": reward, "text": rollouts[number].text[:_MAX_SHOWN]}
        for reward, number in chosen
    ]
