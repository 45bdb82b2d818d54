"""`headrace bench serve`: warms up, measures and reports."""

import asyncio
import os
import random

from rich.console import Console

from engine.command_io.plotting import check_plotting
from engine.command_io.progress import counting_bars
from engine.command_io.results import check_results_file
from engine.errors import StartupError
from server.loadtest.client import Input, LoadClient
from server.loadtest.config import LoadConfig, LoadEndpoint
from server.loadtest.load import LoadRun, converse, run_load
from server.loadtest.metrics import Trace, parse_goodput, summarize
from server.loadtest.report import plot_load, print_report, save_results
from server.loadtest.workload import TextScale, Workload, random_words

_PROBE_WORDS = (40, 240)


def run(config: LoadConfig) -> int:
    """Put the load on the server and report; return 0, or 1 if a request failed. Raises StartupError."""
    limits = parse_goodput(config.goodput)
    workload = Workload(config)
    check_results_file(config.json)
    if config.plot is not None:
        check_plotting(config.plot)
    model, load = asyncio.run(_measure(config, workload))
    summary = summarize(load.traces, load.duration_s, limits)
    print_report(Console(), config, model, load, summary)
    if config.json is not None:
        save_results(config.json, config, model, load, summary)
    if config.plot is not None:
        plot_load(config.plot, load, title=f"{model} at {config.url}")
    return 1 if summary.failed else 0


async def _measure(config: LoadConfig, workload: Workload) -> tuple[str, LoadRun]:
    # A variable rather than a flag, since every user of the machine can read command lines.
    async with LoadClient(config, os.environ.get("OPENAI_API_KEY")) as client:
        model = await client.find_model()
        scale = await _probe_scale(client, config) if workload.uses_text else TextScale()
        conversations = workload.conversations(scale)
        with counting_bars(redraws_itself=True) as progress:
            bar = progress.add_task("warm-up", total=config.num_warmups)
            for index in range(config.num_warmups):
                await converse(client, workload.warm_up(index, scale), config.endpoint, _refuse_failure)
                progress.advance(bar)
            bar = progress.add_task("requests", total=sum(len(turns) for turns in conversations))

            def on_request(_: Trace) -> None:
                progress.advance(bar)

            return model, await run_load(client, conversations, config, on_request)


async def _probe_scale(client: LoadClient, config: LoadConfig) -> TextScale:
    """Measure the number of tokens per word with the server's tokenizer, by two short requests."""
    probes = []
    for num_words in _PROBE_WORDS:
        text = " ".join(random_words(random.Random(f"{config.seed} probe {num_words}"), num_words))
        prompt: Input = [{"role": "user", "content": text}] if config.endpoint is LoadEndpoint.CHAT else text
        trace = await client.send(prompt, 1)
        _refuse_failure(trace)
        probes.append((num_words, trace.prompt_tokens))
    return TextScale.from_probes(*probes)


def _refuse_failure(trace: Trace) -> None:
    if trace.error is not None:
        raise StartupError(f"a warm-up request failed, so nothing was measured: {trace.error}")
