"""run_load: starts the requests of a load at their times, with a limit on how many run at once."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.loadtest.client import Input, LoadClient, Message
from server.loadtest.config import LoadConfig, LoadEndpoint
from server.loadtest.metrics import Trace
from server.loadtest.workload import Conversation


@dataclass(frozen=True, slots=True)
class LoadRun:
    """Results of a load. `traces` are in the order in which requests ended."""

    traces: list[Trace]
    duration_s: float  # first request sent to last answer
    client_cpu_share: float  # share of one core that this client used, which a server on the same machine did not get


async def run_load(
    client: LoadClient, conversations: Sequence[Conversation], config: LoadConfig, on_request: Callable[[Trace], None]
) -> LoadRun:
    """Run all conversations with the options in `config`; on_request is called with each finished request's trace."""
    gate = asyncio.Semaphore(config.max_concurrency or len(conversations))
    traces: list[Trace] = []

    def record(trace: Trace) -> None:
        traces.append(trace)
        on_request(trace)

    async def run(conversation: Conversation) -> None:
        async with gate:  # first come, first served
            await converse(client, conversation, config.endpoint, record)

    starts_s = arrival_times(len(conversations), config.request_rate, config.burstiness, config.seed)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for conversation, start_s in zip(conversations, starts_s, strict=True):
            if (delay_s := began_s + start_s - time.perf_counter()) > 0:
                await asyncio.sleep(delay_s)
            tasks.create_task(run(conversation))
    ended_s = time.perf_counter()
    duration_s = ended_s - min(trace.sent_s for trace in traces)
    return LoadRun(traces, duration_s, (time.process_time() - began_cpu_s) / (ended_s - began_s))


def arrival_times(count: int, rate: float | None, burstiness: float, seed: int) -> list[float]:
    """Return the arrival times of requests, in seconds from the start; all are 0 without a rate.

    The gaps follow a gamma distribution of shape `burstiness` and mean 1 / rate.
    """
    if rate is None:
        return [0.0] * count
    rng = random.Random(f"{seed} arrivals")
    times, now_s = [], 0.0
    for _ in range(count):
        times.append(now_s)
        now_s += rng.gammavariate(burstiness, 1 / (rate * burstiness))
    return times


async def converse(
    client: LoadClient, conversation: Conversation, endpoint: LoadEndpoint, record: Callable[[Trace], None]
) -> None:
    """Send a conversation's turns in order, each with all earlier turns and answers. A failed turn ends it."""
    transcript = ""
    messages: list[Message] = []
    for turn in conversation:
        prompt: Input
        if endpoint is LoadEndpoint.CHAT:
            assert isinstance(turn.prompt, str)
            messages.append({"role": "user", "content": turn.prompt})
            prompt = messages
        elif isinstance(turn.prompt, str):
            transcript += turn.prompt
            prompt = transcript
        else:
            prompt = turn.prompt
        trace = await client.send(prompt, turn.output_len, turn.prediction)
        record(trace)
        if trace.error is not None:
            return
        transcript += trace.text + "\n"
        messages.append({"role": "assistant", "content": trace.text})
