"""Warm-up before READY: fills caches, records tapes, and measures the speed of prefill and decoding."""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from engine.protocol import EngineRequest, SamplingParams
from engine.scheduling.kv.groups import KVGroup, standalone_tables
from engine.scheduling.plan import PlanItem, Runner, StepPlan, run_step
from engine.scheduling.sequence import Sequence

_FIRST_TRIAL_TOKENS = 32
_TRIAL_S = 0.15  # long enough to measure a step, and no longer: a start waits for it


class WarmUpTimes(NamedTuple):
    prefill_token_s: float  # seconds per prompt token, in a step with many
    decode_s: float  # seconds of a step of one generating sequence


def warm_up(
    runner: Runner[Any],
    *,
    num_blocks: int,
    report: Callable[[int, int], None],
    most_tokens: int = 256,
    decode_sizes: Iterable[int] = (),
    has_adapters: bool = False,
    known: WarmUpTimes | None = None,
) -> WarmUpTimes:
    """Run two prefills and two decode steps of a throw-away sequence; return the durations of the second of each.

    The first prefill is short: it absorbs one-time costs, and its duration determines the length of the second, which
    is measured. The runs overwrite the pool's first blocks, so call this before anything is cached. report: called with
    (done, total). most_tokens: of the second prefill. decode_sizes: rows of further decode steps, to run once.
    has_adapters: whether to run these also with an adapter slot, which is empty. known: the times, if an earlier
    process has measured them: nothing is run a second time then, and they are returned.
    """
    sizes = [group.block_size for group in runner.kv_groups if not group.is_state]
    most_tokens = min(most_tokens, num_blocks // len(sizes) * min(sizes)) if sizes else most_tokens
    trial = _throw_away_sequence(most_tokens, runner.kv_groups)
    num_tokens = min(_FIRST_TRIAL_TOKENS, most_tokens)
    num_runs = 1 if known else 2  # of each: the second is measured
    for run in range(num_runs):
        report(run, 2 * num_runs)
        start_s = time.perf_counter()
        run_step(runner, StepPlan([PlanItem(trial, 0, num_tokens, num_draft=0, needs_logits=True)]))
        seconds_per_token = (time.perf_counter() - start_s) / num_tokens
        if run == 0 and not known:
            num_tokens = min(most_tokens, max(num_tokens, int(_TRIAL_S / seconds_per_token)))
    decode = PlanItem(trial, num_tokens - 1, 1, num_draft=0, needs_logits=True)
    for size in decode_sizes:  # before the step that is measured
        for trial.adapter_slot in (0, -1) if has_adapters else (-1,):
            run_step(runner, StepPlan([decode] * size))
    decode_s = 0.0
    for run in range(num_runs, 2 * num_runs):
        report(run, 2 * num_runs)
        start_s = time.perf_counter()
        run_step(runner, StepPlan([decode]))
        decode_s = time.perf_counter() - start_s
    runner.release(trial)
    report(2 * num_runs, 2 * num_runs)
    return known or WarmUpTimes(seconds_per_token, decode_s)


def _throw_away_sequence(num_tokens: int, groups: tuple[KVGroup, ...]) -> Sequence:
    sampling = SamplingParams(max_tokens=1, temperature=1.0, top_p=0.9)
    request = EngineRequest(id="warm-up", prompt_ids=[0] * num_tokens, sampling=sampling, arrival_s=0.0)
    tables = standalone_tables(groups, num_tokens)
    return Sequence(request=request, seed=0, tokens=[0] * num_tokens, num_prompt=num_tokens, tables=tables)
