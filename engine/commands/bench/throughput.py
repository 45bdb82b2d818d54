"""`headrace bench throughput`: all requests arrive at the same time, and the scheduler runs as many as it can."""

import random
from dataclasses import dataclass

from rich import box
from rich.table import Table

from engine.command_io.bench_config import ThroughputConfig
from engine.command_io.lengths import parse_lengths
from engine.commands.bench.drive import BatchRun, RequestMaker, Spread, run_batch
from engine.engine import Engine
from engine.protocol import EngineInfo, EngineRequest


@dataclass(frozen=True, slots=True)
class ThroughputResult:
    prompt_tokens: Spread  # per run
    output_tokens: Spread
    total_s: Spread
    requests_per_s: Spread
    output_tokens_per_s: Spread
    total_tokens_per_s: Spread


def measure_throughput(engine: Engine, info: EngineInfo, config: ThroughputConfig) -> ThroughputResult:
    """Measure all runs. Raises StartupError if a request cannot be served."""
    lengths = (parse_lengths(config.input_len, "--input-len"), parse_lengths(config.output_len, "--output-len"))
    rng = random.Random(config.seed)
    maker = RequestMaker(info.vocab_size, config.seed)

    def requests() -> list[EngineRequest]:
        prefix = maker.ids(config.prefix_len)
        drawn = [[each.draw(rng) for each in lengths] for _ in range(config.num_prompts)]
        return [maker.request(prefix + maker.ids(input_len), output_len) for input_len, output_len in drawn]

    runs = [run_batch(engine, requests()) for _ in range(config.num_iters_warmup + config.num_iters)]
    return _result(runs[config.num_iters_warmup :], config.num_prompts)


def _result(runs: list[BatchRun], num_prompts: int) -> ThroughputResult:
    return ThroughputResult(
        prompt_tokens=Spread.of(run.prompt_tokens for run in runs),
        output_tokens=Spread.of(run.output_tokens for run in runs),
        total_s=Spread.of(run.total_s for run in runs),
        requests_per_s=Spread.of(num_prompts / run.total_s for run in runs),
        output_tokens_per_s=Spread.of(run.output_tokens / run.total_s for run in runs),
        total_tokens_per_s=Spread.of((run.prompt_tokens + run.output_tokens) / run.total_s for run in runs),
    )


def throughput_table(result: ThroughputResult, config: ThroughputConfig) -> Table:
    shown = Table(
        title=f"{config.num_prompts} requests at once; medians of {config.num_iters} (lowest-highest)",
        box=box.SIMPLE,
        show_header=False,
        title_justify="left",
    )
    shown.add_column()
    shown.add_column(justify="right")
    shown.add_row("prompt tokens", result.prompt_tokens.show(0))
    shown.add_row("output tokens", result.output_tokens.show(0))
    shown.add_row("duration, s", result.total_s.show(2))
    shown.add_row("requests/s", result.requests_per_s.show(2))
    shown.add_row("output tokens/s", result.output_tokens_per_s.show())
    shown.add_row("prompt and output tokens/s", result.total_tokens_per_s.show())
    return shown
