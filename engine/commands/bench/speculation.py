"""`headrace bench spec`: tokens per second with and without drafts, by source of drafts, text and batch size."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.progress import Progress
from rich.table import Table

from engine.command_io.bench_config import SpeculationConfig
from engine.command_io.plotting import check_plotting, save_plot
from engine.command_io.progress import counting_bars
from engine.commands.bench.drive import Spread, check_fits, run_batch
from engine.commands.bench.speculation_tasks import SpeculationCase, TaskText, TaskTexts, parse_cases
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import StartupError
from engine.protocol import EngineInfo, EngineRequest, SamplingParams, StepStats
from engine.speculation.proposers import DraftSource
from engine.speculation.settings import speculation_settings


@dataclass(frozen=True, slots=True)
class SpeculationResult:
    """The result for one case (source of drafts, kind of text) and batch size. Rates are summed over the batch's
    sequences, and measured while all of them generate."""

    case: str
    batch_size: int
    plain_tokens_per_s: Spread
    tokens_per_s: Spread
    speedup: Spread  # spread of `speedups`
    speedups: list[float]  # speed-up of each turn, a pair of runs with and without drafts
    draft_length: float  # drafted tokens per sequence and step
    acceptance: float  # share of drafted tokens that were accepted
    same_texts: float  # share of texts that are equal with and without drafts


@dataclass(frozen=True, slots=True)
class _Run:
    tokens_per_s: float
    texts: list[list[int]]
    drafted: int
    accepted: int
    steps: int


class _TooShortError(StartupError):
    """Error for a batch in which a text ended before all had started, so that there is no rate of the full batch."""


def check(config: SpeculationConfig, engine_config: EngineConfig) -> None:
    """Raise StartupError now for options that would otherwise fail after the model is loaded, or at the end."""
    has_draft = speculation_settings(engine_config).draft_model is not None
    parse_cases(config.case, [source for source in DraftSource if has_draft or source is not DraftSource.DRAFT_MODEL])
    if config.plot is not None:
        check_plotting(config.plot)


def measure_speculation(engine: Engine, info: EngineInfo, config: SpeculationConfig) -> list[SpeculationResult]:
    """Measure each case and batch size; a batch whose texts are too short is named on stderr and left out.

    Raises StartupError if a case does not fit or would draft nothing, or if all texts are too short.
    """
    cases = parse_cases(config.case, engine.draft_sources)
    texts = TaskTexts(info, config.prompt_lines)
    plan = [
        (case, [texts.take(case, batch_size) for _ in range(config.num_iters_warmup + config.num_iters)])
        for case in cases
        for batch_size in config.batch_size
    ]
    longest = max(len(text.prompt_ids) for _, turns in plan for turn in turns for text in turn)
    for batch_size in config.batch_size:
        check_fits(info, batch_size=batch_size, tokens_each=longest + config.output_len)
    results, left_out = [], None
    with counting_bars(redraws_itself=False) as progress:
        for case, turns in plan:
            try:
                results.append(_measure(engine, config, case, turns, progress))
            except _TooShortError as error:
                left_out = error
                sys.stderr.write(f"{case.name}, batch {len(turns[0])} is left out: {error}\n")
    if left_out is not None and not results:
        raise left_out
    return results


def _measure(
    engine: Engine, config: SpeculationConfig, case: SpeculationCase, turns: list[list[TaskText]], progress: Progress
) -> SpeculationResult:
    batch_size = len(turns[0])
    if progress.disable:
        sys.stderr.write(f"{case.name}, batch {batch_size} ...\n")
    bar = progress.add_task(f"{case.name}, batch {batch_size}", total=len(turns))
    progress.refresh()
    plain, drafted = [], []
    for number, texts in enumerate(turns):
        order = (False, True) if number % 2 == 0 else (True, False)
        name = f"{case.name} {batch_size} {number}"
        run_batch(engine, list(_requests(config, texts, f"{name} prompt", output_len=1)))
        runs = {}
        for drafts in order:
            engine.set_draft_sources([case.source] if drafts else [])
            requests = _requests(config, texts, f"{name} {drafts}", output_len=config.output_len)
            runs[drafts] = _run(engine, list(requests))
        if number >= config.num_iters_warmup:
            plain.append(runs[False])
            drafted.append(runs[True])
        progress.advance(bar)
        progress.refresh()
    return _result(case, batch_size, plain, drafted)


def _result(case: SpeculationCase, batch_size: int, plain: list[_Run], drafted: list[_Run]) -> SpeculationResult:
    """Compute the result of a case. plain, drafted: the runs of the same texts without and with drafts."""
    equal = [a == b for p, d in zip(plain, drafted, strict=True) for a, b in zip(p.texts, d.texts, strict=True)]
    num_drafted = sum(run.drafted for run in drafted)
    speedups = [d.tokens_per_s / p.tokens_per_s for p, d in zip(plain, drafted, strict=True)]
    return SpeculationResult(
        case=case.name,
        batch_size=batch_size,
        plain_tokens_per_s=Spread.of(run.tokens_per_s for run in plain),
        tokens_per_s=Spread.of(run.tokens_per_s for run in drafted),
        speedup=Spread.of(speedups),
        speedups=speedups,
        draft_length=num_drafted / max(1, sum(run.steps for run in drafted) * batch_size),
        acceptance=sum(run.accepted for run in drafted) / max(1, num_drafted),
        same_texts=sum(equal) / len(equal),
    )


def _requests(
    config: SpeculationConfig, texts: list[TaskText], name: str, *, output_len: int
) -> Iterator[EngineRequest]:
    for number, text in enumerate(texts):
        yield EngineRequest(
            id=f"{name} {number}",
            prompt_ids=text.prompt_ids,
            sampling=SamplingParams(max_tokens=output_len, temperature=config.temperature, ignore_eos=True),
            arrival_s=time.monotonic(),
            prediction_ids=text.prediction_ids,
        )


def _run(engine: Engine, requests: list[EngineRequest]) -> _Run:
    """Run all requests to their end, and measure the rate while all of them generate."""
    ids: dict[str, list[int]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    has_ended = False
    began_s = ended_s = 0.0
    num_before = num_after = 0
    timed: list[StepStats] = []
    while engine.has_work:
        step = engine.step()
        for output in step.outputs:
            if output.error is not None:
                raise StartupError(f"the engine refused a request of the benchmark: {output.error}")
            ids[output.id].extend(output.new_ids)
            has_ended |= output.finish_reason is not None
        num_tokens = sum(map(len, ids.values()))
        if began_s and not ended_s:
            timed.append(step.stats)
        if not began_s and all(ids.values()):
            began_s, num_before = time.perf_counter(), num_tokens
        if has_ended and not ended_s:
            ended_s, num_after = time.perf_counter(), num_tokens
    if ended_s <= began_s:
        raise _TooShortError("a text ended before all had started, so nothing was measured; raise --output-len")
    return _Run(
        tokens_per_s=(num_after - num_before) / (ended_s - began_s),
        texts=list(ids.values()),
        drafted=sum(stats.draft_tokens for stats in timed),
        accepted=sum(stats.accepted_tokens for stats in timed),
        steps=len(timed),
    )


def speculation_table(results: Sequence[SpeculationResult], config: SpeculationConfig) -> Table:
    shown = Table(
        title=f"{config.output_len} tokens out; medians of {config.num_iters} turns (lowest-highest)",
        box=box.SIMPLE,
        title_justify="left",
    )
    shown.add_column("drafts, text")
    for column in ("batch", "without, tokens/s", "with, tokens/s", "speed-up", "drafted", "accepted", "same text"):
        shown.add_column(column, justify="right")
    last = ""
    for result in results:
        if last and result.case != last:
            shown.add_section()
        shown.add_row(
            "" if result.case == last else result.case,
            str(result.batch_size),
            result.plain_tokens_per_s.show(),
            result.tokens_per_s.show(),
            result.speedup.show(2),
            f"{result.draft_length:.1f}",
            f"{result.acceptance:.0%}",
            f"{result.same_texts:.0%}" if config.temperature == 0 else "-",
        )
        last = result.case
    return shown


def write_speedup_plot(path: str, results: Sequence[SpeculationResult], model: str) -> None:
    """Plot the speed-up over the batch size: a line for each case, with the range of its repeated measurements.
    `check_plotting` must have checked the path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for case in dict.fromkeys(result.case for result in results):
        own = sorted((result for result in results if result.case == case), key=lambda result: result.batch_size)
        sizes = [result.batch_size for result in own]
        (line,) = axes.plot(sizes, [result.speedup.median for result in own], marker="o", label=case)
        lows, highs = [result.speedup.low for result in own], [result.speedup.high for result in own]
        axes.fill_between(sizes, lows, highs, alpha=0.15, color=line.get_color())
    axes.axhline(1.0, color="gray", linewidth=0.8)
    axes.set(xlabel="sequences at once", ylabel="speed-up by drafts", title=model, ylim=(0, None))
    axes.set_xscale("log", base=2)
    all_sizes = sorted({result.batch_size for result in results})
    axes.set_xticks(all_sizes, [str(size) for size in all_sizes])
    axes.legend()
    axes.grid(alpha=0.3)
    save_plot(figure, path)
