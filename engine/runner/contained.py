"""Launches and collects steps so that an exception ends only the sequences that cause it."""

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.scheduling.plan import PlanItem, RowResult, Runner, StepPlan, StepResult, run_step
from engine.scheduling.sequence import SequenceStatus
from engine.scheduling.steps.budget import StepBudget
from engine.wording import counted
from models.errors import is_out_of_memory, raise_if_lost

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class LaunchedStep:
    """A step that was launched. pending: of the runner; None after it was collected, or if it could not be launched.
    error: why not. began_s: when the device could begin with it, by time.perf_counter()."""

    plan: StepPlan
    began_s: float
    pending: Any = None
    error: Exception | None = None


def launch_contained(runner: Runner[Any], plan: StepPlan) -> LaunchedStep:
    """Launch a plan. What it raises is handled by `collect_contained`, unless the device has failed for good: then
    DeviceLostError is raised."""
    step = LaunchedStep(plan, time.perf_counter())
    try:
        step.pending = runner.launch(plan)
    except Exception as error:  # noqa: BLE001 - the boundary is where the step is collected
        raise_if_lost(error)
        step.error = error
    return step


def collect_contained(
    runner: Runner[Any], step: LaunchedStep, budget: StepBudget, *, drop_ahead: Callable[[], None] = lambda: None
) -> StepResult | None:
    """Collect a step. If memory ran out, shrink the budget and return None; smaller steps must then be scheduled.

    drop_ahead: called after a failure, to collect a step that was launched after this one. Raises DeviceLostError if
    the device has failed for good: no request is the cause, and none can be computed.
    """
    plan = step.plan
    try:
        result = _collect(runner, step)
    except Exception as error:
        raise_if_lost(error)
        drop_ahead()
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
            budget.observe(plan.sample(time.perf_counter() - step.began_s))
        return result
    return None if is_smaller else _execute_apart(runner, plan, failed)


def discard_step(runner: Runner[Any], step: LaunchedStep) -> None:
    """Wait for a step whose result is not used, since the step before it failed or it could not be launched."""
    try:
        _collect(runner, step)
    except Exception as error:  # noqa: BLE001 - the step is planned again, and may fail there
        raise_if_lost(error)
        logger.warning(
            "a step that was launched ahead failed, and is computed again: %s", error or type(error).__name__
        )
        _clear_frames(error)


def _collect(runner: Runner[Any], step: LaunchedStep) -> StepResult:
    """Collect a step; keep nothing of it if that fails."""
    pending, step.pending = step.pending, None
    error, step.error = step.error, None
    if error is not None:
        raise error
    return runner.collect(pending)


def _clear_frames(error: BaseException) -> None:
    """Free what the failed step's functions hold, such as its tensors, before requests are computed again."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__


def _execute_apart(runner: Runner[Any], plan: StepPlan, failed: RowResult) -> StepResult:
    """Run a failed plan again item by item, so that only sequences that fail on their own end.

    Sequences that have ended since the launch are left out. Rerunning writes the same keys and values. A model with
    recurrent states cannot rerun the step, which may have overwritten the states that it started from: then every
    sequence ends as `failed`. So do sequences with blocks that the plan copies: the copies may be missing, and their
    sources overwritten.
    """
    rows = [failed] * len(plan.items)
    if len(plan.items) > 1 and not any(group.is_state for group in runner.kv_groups):
        targets = {copy.target for copy in plan.copies}
        rows = [
            _execute_alone(runner, item)
            if item.sequence.status is not SequenceStatus.FINISHED and targets.isdisjoint(*item.sequence.tables)
            else failed
            for item in plan.items
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
