"""Replica: one engine on a virtual clock, with the real scheduler and no model."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice

from engine.protocol import EngineRequest, RequestOutput, StepStats
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.plan import PlanItem, RowResult, StepPlan, StepResult
from engine.scheduling.steps.budget import StepBudget
from engine.scheduling.steps.cost import StepSample
from engine.simulation.run_scheduler import RunScheduler

_MOST_STEPS = 128  # of a run: a request that comes within it makes the rest void
_TOKEN = 0  # generated where no `next_token` decides


@dataclass(slots=True)
class ReplicaTally:
    """Sums over all steps of a replica."""

    busy_s: float = 0.0
    num_steps: int = 0
    prompt_tokens: int = 0  # computed, with those that a preemption lost
    output_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0

    def add(self, stats: StepStats, step_s: float) -> None:
        self.busy_s += step_s
        self.num_steps += 1
        self.prompt_tokens += stats.prefill_tokens
        self.recomputed_tokens += stats.recomputed_tokens
        self.preemptions += stats.preemptions
        self.prefix_queries += stats.prefix_queries
        self.prefix_hits += stats.prefix_hits


class Replica:
    """A scheduler whose steps take the time that `step_s` says. A step starts, and ends when its time has come;
    requests may come in between.

    decode_s: returns the seconds of decode steps in turn; the sequences have the given lengths after the first. With
    it, runs of decode steps in which nothing else happens are played at once, with exactly the results of single steps
    (RunScheduler); without, each step is played. next_token: returns the token that a plan's item generates.
    on_started: called with the ids of requests before the first step that computes them.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        budget: StepBudget,
        step_s: Callable[[StepPlan], float],
        *,
        decode_s: Callable[[Iterable[int]], Iterator[float]] | None = None,
        next_token: Callable[[PlanItem], int] = lambda _: _TOKEN,
        on_started: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        self.now_s = 0.0
        self.tally = ReplicaTally()
        self.scheduler = RunScheduler(config, budget=budget, clock=lambda: self.now_s)
        self.stats = StepStats()  # of the last step
        self._budget = budget
        self._step_s = step_s
        self._decode_s = decode_s
        self._next_token = next_token
        self._on_started = on_started
        self._plan: StepPlan | None = None
        self._run_s: list[float] = []  # when each step of a run ends; `_plan` is its first step
        self.ends_s: float | None = None  # when the running step, or the last one of a run, ends

    def add(self, request: EngineRequest) -> None:
        """Accept a request, which comes now; a run ends with the step that runs. Raises InvalidRequest if the request
        can never be served."""
        if self._run_s:
            self._play(bisect_right(self._run_s, request.arrival_s))
        self.scheduler.add(request)

    def begin_step(self, now_s: float) -> float | None:
        """Plan a step, or a run of steps, at `now_s`; return when it ends, or None if there is nothing to compute."""
        assert self.ends_s is None
        self.now_s = now_s
        if not self.scheduler.has_work:
            return None
        plan = self.scheduler.schedule()
        assert plan.items, "a step without work"
        if started := [item.sequence for item in plan.items if not item.sequence.is_started]:
            for sequence in started:
                sequence.is_started = True
            self._on_started([sequence.id for sequence in started])
        self._plan, self.ends_s = plan, now_s + self._step_s(plan)
        if self._decode_s is not None and (num_steps := self.scheduler.longest_run(plan)):
            steps_s = islice(self._decode_s([item.end for item in plan.items]), min(num_steps, _MOST_STEPS) + 1)
            self._run_s = list(accumulate(steps_s, initial=now_s))[1:]
            self.ends_s = self._run_s[-1]
        return self.ends_s

    def _play(self, num_steps: int) -> None:
        """End the first steps of the run at their times, and the run with the step after them."""
        assert self._plan is not None
        num_rows, ends_s = len(self._plan.items), self._run_s[:num_steps]
        self.ends_s, self._run_s = self._run_s[num_steps], []
        if not ends_s:
            return
        for end_s in ends_s:
            step_s = end_s - self.now_s
            self._budget.observe(StepSample(num_rows, 0, 0.0, step_s))
            self.tally.busy_s += step_s
            self.now_s = end_s
        self.tally.num_steps += num_steps
        self.tally.output_tokens += num_steps * num_rows
        self._plan = self.scheduler.play_run(self._plan, num_steps, _TOKEN)

    def end_step(self) -> list[RequestOutput]:
        """End the running step, or run, at its time; return the outputs of its last step."""
        if self._run_s:
            self._play(len(self._run_s) - 1)
        assert self._plan is not None
        assert self.ends_s is not None
        plan, step_s, self.now_s = self._plan, self.ends_s - self.now_s, self.ends_s
        self._plan = self.ends_s = None
        self._budget.observe(plan.sample(step_s))
        rows = [RowResult([self._next_token(item)] if item.needs_logits else []) for item in plan.items]
        outputs = self.scheduler.update(plan, StepResult(rows))
        self.scheduler.take_finished()
        self.stats = self.scheduler.take_stats(step_s=step_s)
        self.tally.add(self.stats, step_s)
        self.tally.output_tokens += sum(len(output.new_ids) for output in outputs)
        return outputs
