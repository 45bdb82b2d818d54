"""`headrace bench spec`: tokens a second with drafts against none, by batch size, in turns in one process."""

import time
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from engine.bench.config import SpecConfig, SpecTask
from engine.bench.drive import Spread, check_fits
from engine.bench.speculation_tasks import TaskText, task_texts
from engine.engine import Engine
from engine.errors import StartupError
from engine.protocol import EngineInfo, EngineRequest, SamplingParams


@dataclass(frozen=True, slots=True)
class SpecResult:
    """Of one batch size. Rates are of the steps that decode, over all sequences."""

    batch_size: int
    plain_tokens_per_s: Spread
    tokens_per_s: Spread
    speedup: Spread  # of each turn, against the turn without drafts before it
    draft_length: float  # drafted tokens a sequence and step
    acceptance: float  # share of drafted tokens that stood
    same_texts: float  # share of texts that are equal with and without drafts


@dataclass(frozen=True, slots=True)
class _Run:
    tokens_per_s: float
    texts: list[list[int]]
    drafted: int
    accepted: int
    steps: int


def measure(engine: Engine, info: EngineInfo, config: SpecConfig) -> list[SpecResult]:
    """One result for each batch size. Raises StartupError if one does not fit or nothing would draft."""
    if config.prediction and config.task is not SpecTask.EDIT:
        raise StartupError(f"--prediction is for --task edit, not {config.task.value}; leave one out")
    texts = task_texts(info, config.task, max(config.batch_size), with_prediction=config.prediction)
    longest = max(len(text.prompt_ids) for text in texts) + config.output_len
    for batch_size in config.batch_size:
        check_fits(info, batch_size=batch_size, tokens_each=longest)
    return [_measure_batch(engine, config, texts[:batch_size]) for batch_size in config.batch_size]


def _measure_batch(engine: Engine, config: SpecConfig, texts: list[TaskText]) -> SpecResult:
    plain, drafted = [], []
    for turn in range(config.num_iters_warmup + config.num_iters):
        runs = [_run(engine, config, texts, turn, drafts=drafts) for drafts in (False, True)]
        if turn >= config.num_iters_warmup:
            plain.append(runs[0])
            drafted.append(runs[1])
    if not any(run.drafted for run in drafted) and len(texts) == 1:
        raise StartupError(
            "nothing was drafted; give --draft-model, --speculative-method ngram, or --task edit --prediction"
        )
    equal = [a == b for p, d in zip(plain, drafted, strict=True) for a, b in zip(p.texts, d.texts, strict=True)]
    num_drafted = sum(run.drafted for run in drafted)
    return SpecResult(
        len(texts),
        Spread.of(run.tokens_per_s for run in plain),
        Spread.of(run.tokens_per_s for run in drafted),
        Spread.of(d.tokens_per_s / p.tokens_per_s for p, d in zip(plain, drafted, strict=True)),
        num_drafted / max(1, sum(run.steps for run in drafted) * len(texts)),
        sum(run.accepted for run in drafted) / max(1, num_drafted),
        sum(equal) / len(equal),
    )


def _run(engine: Engine, config: SpecConfig, texts: list[TaskText], turn: int, *, drafts: bool) -> _Run:
    """All texts at once to their end; timed from the step after the last first token."""
    engine.set_speculation(drafts)
    for number, text in enumerate(texts):
        sampling = SamplingParams(
            max_tokens=config.output_len, temperature=config.temperature, seed=number, ignore_eos=True
        )
        engine.add(
            EngineRequest(
                id=f"spec-{turn}-{drafts}-{number}",
                prompt_ids=text.prompt_ids,
                sampling=sampling,
                arrival_s=time.monotonic(),
                prediction_ids=text.prediction_ids,
            )
        )
    ids: dict[str, list[int]] = {}
    began_s = 0.0
    num_before = drafted = accepted = steps = 0
    while engine.has_work:
        step = engine.step()
        for output in step.outputs:
            if output.error is not None:
                raise StartupError(f"the engine refused a request of the benchmark: {output.error}")
            ids.setdefault(output.id, []).extend(output.new_ids)
        if began_s:
            drafted += step.stats.draft_tokens
            accepted += step.stats.accepted_tokens
            steps += 1
        elif len(ids) == len(texts):
            began_s, num_before = time.perf_counter(), sum(map(len, ids.values()))
    seconds = time.perf_counter() - began_s
    num_tokens = sum(map(len, ids.values())) - num_before
    return _Run(num_tokens / seconds, [ids[key] for key in sorted(ids)], drafted, accepted, steps)


def table(results: list[SpecResult], config: SpecConfig) -> Table:
    shown = Table(
        title=f"{config.task.value}: {config.output_len} tokens out; medians of {config.num_iters} (lowest-highest)",
        box=box.SIMPLE,
        title_justify="left",
    )
    columns = (
        "batch",
        "without, tokens/s",
        "with drafts, tokens/s",
        "speed-up",
        "drafted a step",
        "accepted",
        "same text",
    )
    for column in columns:
        shown.add_column(column, justify="right")
    for result in results:
        shown.add_row(
            str(result.batch_size),
            result.plain_tokens_per_s.show(),
            result.tokens_per_s.show(),
            result.speedup.show(2),
            f"{result.draft_length:.1f}",
            f"{result.acceptance:.0%}",
            f"{result.same_texts:.0%}",
        )
    return shown


def write_plot(path: str, results: list[SpecResult], config: SpecConfig) -> None:
    """Speed-up against batch size, with the range over the turns. Raises StartupError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws without a display or global state
        from matplotlib.figure import Figure
    except ImportError:
        raise StartupError("--plot needs matplotlib; install it with: pip install 'headrace[bench]'") from None
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    sizes = [result.batch_size for result in results]
    spreads = [result.speedup for result in results]
    axes.plot(sizes, [spread.median for spread in spreads], marker="o")
    axes.fill_between(sizes, [s.low for s in spreads], [s.high for s in spreads], alpha=0.2)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set(xlabel="sequences at once", ylabel="speed-up by drafts", title=config.task.value, ylim=(0, None))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    try:
        figure.savefig(Path(path), dpi=120)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no format
        raise StartupError(f"cannot write the plot {path}: {error}") from error
