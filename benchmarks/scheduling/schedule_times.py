"""The scheduler's time per step while few and many requests wait, without a model.

    .venv/bin/python -m benchmarks.scheduling.schedule_times
    .venv/bin/python -m benchmarks.scheduling.schedule_times --waiting 8 10000 --case prompts prefix

A step here is all of the scheduler's work: granting drafts, choosing, allocating, applying results and counting. The
model's work is left out: every row that needs a token gets the same one. Times are processor times of this process, so
that other programs matter little.
"""

import argparse
import statistics
import sys
import time
from collections import abc
from dataclasses import dataclass, field
from typing import Any

from engine.commands.bench.processor import processor_name
from engine.config import SchedulingPolicy
from engine.grammar.sequence_grammar import SequenceGrammar
from engine.protocol import EngineRequest, SamplingParams
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import RowResult, StepPlan, StepResult
from engine.scheduling.scheduler import Scheduler

_BLOCK_SIZE, _MANY_BLOCKS, _PLACES = 16, 20_000, 16
_LONG, _SHORT = 8000, 60  # tokens of prompts
_FOREVER = 10_000  # tokens of output
_FIRST_STEPS = 20  # that are not measured


@dataclass(frozen=True, slots=True)
class Case:
    """A reason why requests wait. `running` and `waiting` make the n-th request."""

    what: str
    running: abc.Callable[[int], EngineRequest]
    waiting: abc.Callable[[int], EngineRequest]
    num_running: int = _PLACES
    needs_grammar: bool = False  # a grammar that is never compiled
    config: dict[str, Any] = field(default_factory=dict)


def _request(number: int, num_prompt: int = _SHORT, *, shared: bool = False, **fields: Any) -> EngineRequest:
    """Return a request with a unique prompt, or with one that all share except for the last token."""
    prompt_ids = [7] * (num_prompt - 1) + [number] if shared else [number] * num_prompt
    sampling = SamplingParams(max_tokens=_FOREVER, temperature=0.0, ignore_eos=True)
    return EngineRequest(id=str(number), prompt_ids=prompt_ids, sampling=sampling, arrival_s=0.0, **fields)


def _long(number: int) -> EngineRequest:
    return _request(number, _LONG)


def _sharing(number: int) -> EngineRequest:
    return _request(number, _LONG, shared=True)


CASES = {
    "places": Case("all places are taken", _request, _request),
    "tenants": Case(
        "the same, by one tenant of 64 that wait",
        lambda number: _request(number, tenant="0"),
        lambda number: _request(number, tenant=str(number % 64)),
    ),
    "own": Case(
        "the same, and each that waits is a tenant of its own",
        lambda number: _request(number, tenant="0"),
        lambda number: _request(number, tenant=str(number)),
    ),
    "priority": Case(
        "the same, under priorities",
        lambda number: _request(number, priority=0),
        lambda number: _request(number, priority=number % 7),
        config={"scheduling_policy": SchedulingPolicy.PRIORITY},
    ),
    "blocks": Case("all blocks are taken", _long, _long, config={"num_blocks": 4096, "max_num_seqs": 64}),
    "prompts": Case("a long prompt takes the tokens of steps", _long, _long, num_running=1),
    "prefix": Case("their prefix is being computed", _sharing, _sharing, num_running=1),
    "grammars": Case("their grammars are being compiled", _request, _request, num_running=8, needs_grammar=True),
}


def measure(case: Case, num_waiting: int, num_steps: int) -> list[float]:
    """Return the seconds of each step."""
    scheduler = Scheduler(_config(**case.config))
    for number in range(case.num_running):
        scheduler.add(case.running(number))
    for _ in range(_FIRST_STEPS):
        _step(scheduler)
    for number in range(1000, 1000 + num_waiting):
        grammar = SequenceGrammar(frozenset(), appends_forced=True) if case.needs_grammar else None
        scheduler.add(case.waiting(number), grammar)
    return [_step(scheduler) for _ in range(num_steps)]


def _config(**fields: Any) -> SchedulerConfig:
    defaults: dict[str, Any] = {
        "num_blocks": _MANY_BLOCKS,
        "block_size": _BLOCK_SIZE,
        "max_model_len": 40_000,
        "max_num_seqs": _PLACES,
        "max_num_batched_tokens": 128,
        "kv_groups": (KVGroup(_BLOCK_SIZE),),
    }
    return SchedulerConfig(**defaults | fields)


def _step(scheduler: Scheduler) -> float:
    began_s = time.process_time()
    scheduler.grant_drafts([(each, 0) for each in scheduler.running if each.num_pending == 1])
    plan = scheduler.schedule()
    chosen_s = time.process_time()
    result = _execute(plan)
    executed_s = time.process_time()
    scheduler.update(plan, result)
    scheduler.take_stats()
    assert scheduler.has_work
    return time.process_time() - executed_s + chosen_s - began_s


def _execute(plan: StepPlan) -> StepResult:
    return StepResult([RowResult([9] if item.needs_logits else []) for item in plan.items])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.scheduling.schedule_times", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--waiting", nargs="+", type=int, default=[8, 256, 2000], help="how many requests wait")
    parser.add_argument("--steps", type=int, default=40, help="that are measured")
    options = parser.parse_args()
    sys.stdout.write(f"{processor_name()}; microseconds a step, p50 (longest)\n")
    for name in options.case:
        times = [measure(CASES[name], num_waiting, options.steps) for num_waiting in options.waiting]
        cells = [f"{statistics.median(each) * 1e6:,.0f} ({max(each) * 1e6:,.0f})" for each in times]
        row = ", ".join(f"{cell} with {number:,}" for cell, number in zip(cells, options.waiting, strict=True))
        sys.stdout.write(f"{name}: {CASES[name].what}: {row}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
