"""`headrace bench latency`: prefill and decode of one batch, in one process and without HTTP."""

from dataclasses import dataclass

from rich import box
from rich.table import Table

from engine.command_io.bench_config import LatencyConfig
from engine.commands.bench.drive import BatchRun, RequestMaker, Spread, check_fits, run_batch
from engine.engine import Engine
from engine.protocol import EngineInfo


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """The measurements of one batch size, over all runs."""

    batch_size: int
    prefill_ms: Spread  # first step to the last sequence's first token
    prefill_tokens_per_s: Spread
    decode_ms: Spread  # mean time of a step that gives each sequence one more token
    decode_tokens_per_s: Spread


def measure_latency(engine: Engine, info: EngineInfo, config: LatencyConfig) -> list[LatencyResult]:
    """Measure each batch size. Raises StartupError if a batch does not fit into the KV cache."""
    for batch_size in config.batch_size:
        check_fits(info, batch_size=batch_size, tokens_each=config.input_len + config.output_len)
    maker = RequestMaker(info.vocab_size, config.seed)
    return [_measure_batch(engine, config, maker, batch_size) for batch_size in config.batch_size]


def _measure_batch(engine: Engine, config: LatencyConfig, maker: RequestMaker, batch_size: int) -> LatencyResult:
    runs: list[BatchRun] = []
    for _ in range(config.num_iters_warmup + config.num_iters):
        prompts = [maker.ids(config.input_len) for _ in range(batch_size)]
        runs.append(run_batch(engine, [maker.request(prompt, config.output_len) for prompt in prompts]))
    runs = runs[config.num_iters_warmup :]
    prefill_ms = Spread.of(run.first_token_s * 1e3 for run in runs)
    # If a prefill takes several steps, sequences whose prompt is done decode meanwhile. After the first token of the
    # last sequence, the batch takes this sequence's decode steps.
    decode_ms = Spread.of((run.total_s - run.first_token_s) * 1e3 / (config.output_len - 1) for run in runs)
    return LatencyResult(
        batch_size,
        prefill_ms,
        prefill_ms.scaled(lambda ms: batch_size * config.input_len * 1e3 / ms),
        decode_ms,
        decode_ms.scaled(lambda ms: batch_size * 1e3 / ms),
    )


def latency_table(results: list[LatencyResult], config: LatencyConfig) -> Table:
    shown = Table(
        title=f"{config.input_len} tokens in, {config.output_len} out; medians of {config.num_iters} (lowest-highest)",
        box=box.SIMPLE,
        title_justify="left",
    )
    for column in ("batch", "prefill, ms", "prefill, tokens/s", "decode step, ms", "decode, tokens/s"):
        shown.add_column(column, justify="right")
    for result in results:
        shown.add_row(
            str(result.batch_size),
            result.prefill_ms.show(1, "\n"),
            result.prefill_tokens_per_s.show(0, "\n"),
            result.decode_ms.show(2, "\n"),
            result.decode_tokens_per_s.show(1, "\n"),
        )
    return shown
