"""execute_contained: runs a step plan so that an exception ends only the sequences that cause it."""

import logging
import time
import traceback
from typing import Any

from engine.scheduling.plan import PlanItem, RowResult, Runner, StepPlan, StepResult, run_step
from engine.scheduling.steps.budget import StepBudget
from engine.wording import counted
from models.errors import is_out_of_memory, raise_if_lost

logger = logging.getLogger(__name__)


def execute_contained(runner: Runner[Any], plan: StepPlan, budget: StepBudget) -> StepResult | None:
    """Run a plan. If memory runs out, shrink the budget and return None; smaller steps must then be scheduled.

    Raises DeviceLostError if the device has failed for good: no request is the cause, and none can be computed.
    """
    start_s = time.perf_counter()
    try:
        result = run_step(runner, plan)
    except Exception as error:
        raise_if_lost(error)
        is_smaller = is_out_of_memory(error) and budget.shrink(plan.num_tokens)
        if is_smaller:
            logger.warning(
                "memory ran out in a step of %s (%s); %s computed again, in smaller steps",
                counted(plan.num_tokens, "token"),
                error or type(error).__name__,
                counted(len(plan.items), "request is", "requests are"),
            )
        else:
            logger.exception(
                "a step of %d tokens failed, for requests %s",
                plan.num_tokens,
                ", ".join(item.sequence.id for item in plan.items),
            )
        failed = _failed(error)
        _clear_frames(error)
    else:
        if result.is_representative:
            budget.observe(plan.sample(time.perf_counter() - start_s))
        return result
    return None if is_smaller else _execute_apart(runner, plan, failed)


def _clear_frames(error: BaseException) -> None:
    """Free what the failed step's functions hold, such as its tensors, before requests are computed again."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


def _execute_apart(runner: Runner[Any], plan: StepPlan, failed: RowResult) -> StepResult:
    """Run a failed plan again item by item, so that only sequences that fail on their own end.

    Rerunning writes the same keys and values. A model with recurrent states cannot rerun the step, which may have
    overwritten the states that it started from: then every sequence ends as `failed`. So do sequences with blocks that
    the plan copies: the copies may be missing, and their sources overwritten.
    """
    rows = [failed] * len(plan.items)
    if len(plan.items) > 1 and not any(group.is_state for group in runner.kv_groups):
        targets = {copy.target for copy in plan.copies}
        rows = [
            _execute_alone(runner, item) if targets.isdisjoint(*item.sequence.tables) else failed for item in plan.items
        ]
    return StepResult(rows, is_representative=False)


def _execute_alone(runner: Runner[Any], item: PlanItem) -> RowResult:
    try:
        (row,) = run_step(runner, StepPlan([item])).rows
    except Exception as error:
        raise_if_lost(error)
        logger.exception("request %s fails alone, too, and ends", item.sequence.id)
        _clear_frames(error)
        return _failed(error)
    return row


def _failed(error: Exception) -> RowResult:
    return RowResult([], error=f"the engine failed while it computed this request: {type(error).__name__}")
