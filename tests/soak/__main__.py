"""A soak: a real server under mixed load, disconnects, kills and injected faults, and whether it stands as it stood.

    python -m tests.soak --minutes 60

It asserts that every request ends in exactly one way, that the counters are the clients' sums, that texts do not depend
on what happens beside them, and that memory, descriptors and threads of both processes stay flat. Of a process that ran
too short for that it says so: the engine is killed in the first half of the run alone, and lives on through the second.
Each line of a batch of decisions is answered once: it begins on servers that are killed before the users come, runs
beside them, and ends when they have gone.
Linux alone.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.helpers.deadline import wait_until
from tests.helpers.server_process import API_KEY, ServerProcess
from tests.soak.checks import MAX_DISK_BYTES, Watch, faults_of_run, report, unknowns_of_run
from tests.soak.decision_batch import begin_decisions, wait_answered, wrong_decisions
from tests.soak.samples import take_sample
from tests.soak.scenarios import SCENARIOS
from tests.soak.tally import Tally
from tests.soak.user import User

FAULTS = (
    "step:raise:*151,step:memory:*211,request:raise:*401,logits:nan:*307,output:delay=0.3:*131,step:hang=0.5:*257,"
    "store:full:*53,kv_read:fail:*83,kv_read:hang=0.2:*61,kv_write:full:*97"
)
# A small KV cache: its pages are taken from the system when they are first written, which is soon over.
_OPTIONS = ("--dtype", "float32", "--kv-cache-memory-bytes", "128MiB", "--max-num-batched-tokens", "256")
# Long enough that on a machine that others use it says something of the server and not of them.
_HANG_TIMEOUT_S = 600
_REQUEST_TIMEOUT_S = 900
_SAMPLE_S = 2.0
_SERVER_KILLS, _LINES_BEFORE_KILL = 2, 200
_KILL_EVERY_S = 300.0  # no more than three in ten minutes, or the server gives up

logger = logging.getLogger("soak")


async def _use(user: User, until_s: float) -> None:
    scenarios, weights = list(SCENARIOS), list(SCENARIOS.values())
    while time.monotonic() < until_s:
        (scenario,) = user.random.choices(scenarios, weights)
        user.scenario = scenario.__name__
        with contextlib.suppress(httpx.HTTPError):  # noted
            await scenario(user)


async def _disturb(server: ServerProcess, watch: Watch, minutes: float) -> None:
    """Stop each process for a moment now and then, and in the first half of the run kill the engine in between."""
    interval_s = min(_KILL_EVERY_S, minutes * 60 / 6)
    last_kill_s = time.monotonic() + minutes * 30
    while True:
        await asyncio.sleep(interval_s / 2)
        for pid in (server.process.pid, server.engine_pid()):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(1.0)
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(interval_s / 2)
        if time.monotonic() < last_kill_s:
            os.kill(server.engine_pid(), signal.SIGKILL)
            watch.num_kills += 1


async def _sample(server: ServerProcess, watch: Watch) -> None:
    while True:
        for name, pid in (("server", server.process.pid), ("engine", _engine(server))):
            sample = None if pid is None else take_sample(pid)
            if sample is not None:
                watch.samples[name].append(sample)
        await asyncio.sleep(_SAMPLE_S)


def _engine(server: ServerProcess) -> int | None:
    try:
        return server.engine_pid()
    except (ValueError, FileNotFoundError):  # it is being started again
        return None


def _client(server: ServerProcess, num_kept: int | None = None) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=num_kept)
    headers = {"authorization": f"Bearer {API_KEY}"}
    return httpx.AsyncClient(
        base_url=server.url, headers=headers, timeout=_REQUEST_TIMEOUT_S, limits=limits, trust_env=False
    )


async def _part_of_batch(server: ServerProcess, batch_id: str | None, num_decisions: int) -> str:
    """Begin the batch if none is given, and wait for some more of its answers; return its id."""
    async with _client(server) as http:
        batch_id = batch_id or await begin_decisions(http, num_decisions)
        await wait_answered(http, batch_id, _LINES_BEFORE_KILL)
    return batch_id


def _killed_in_batch(folder: Path, options: tuple[str, ...], faults: str, num_decisions: int) -> str:
    """Kill servers with SIGKILL while they answer a batch of decisions; return its id. The next server continues it."""
    batch_id = None
    for number in range(_SERVER_KILLS):
        with ServerProcess(folder / f"killed-{number}.log", *options, faults=faults) as server:
            server.wait_ready()
            batch_id = asyncio.run(_part_of_batch(server, batch_id, num_decisions))
            server.process.kill()
            server.process.wait()
    assert batch_id is not None
    return batch_id


async def _load(
    server: ServerProcess,
    watch: Watch,
    tally: Tally,
    *,
    minutes: float,
    num_users: int,
    batch_id: str,
    num_decisions: int,
) -> None:
    async with _client(server, num_users) as http:
        beside = [asyncio.create_task(_sample(server, watch)), asyncio.create_task(_disturb(server, watch, minutes))]
        until_s = time.monotonic() + minutes * 60
        try:
            await asyncio.gather(*(_use(User(http, tally, seed), until_s) for seed in range(num_users)))
            tally.wrong += await wrong_decisions(http, batch_id, num_decisions)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        for task in beside:
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()  # type: ignore[misc]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--decisions", type=int, default=10_000, help="lines of the batch beside the users")
    parser.add_argument("--log", type=Path, help="file for the server's log (default: a temporary one)")
    parser.add_argument("--faults", default=FAULTS, help="HEADRACE_FAULTS of the server (default: some of each kind)")
    arguments = parser.parse_args()
    if arguments.decisions <= (least := _SERVER_KILLS * _LINES_BEFORE_KILL):
        parser.error(f"--decisions is {arguments.decisions}; servers are killed in its first {least} lines: give more")
    with tempfile.TemporaryDirectory() as folder:
        log = arguments.log or Path(folder) / "log"
        options = (*_OPTIONS, "--served-model-name", "demo", "--check-invariants", "--stream-resume-grace", "5")
        options = (*options, "--kv-offload-dir", str(Path(folder) / "kv"), "--kv-persist")
        options = (*options, "--kv-offload-max-bytes", str(MAX_DISK_BYTES))
        options = (*options, "--data-dir", str(Path(folder) / "data"), "--engine-hang-timeout", str(_HANG_TIMEOUT_S))
        batch_id = _killed_in_batch(Path(folder), options, arguments.faults, arguments.decisions)
        with ServerProcess(log, *options, faults=arguments.faults) as server:
            server.wait_ready()
            watch, tally = Watch(), Tally()
            watch.begin(server)
            batch = {"batch_id": batch_id, "num_decisions": arguments.decisions}
            asyncio.run(_load(server, watch, tally, minutes=arguments.minutes, num_users=arguments.users, **batch))
            server.wait_ready()
            gauges = ("headrace_num_requests_running", "headrace_num_requests_waiting", "headrace_stream_runs")
            wait_until(lambda: all(server.metric(name) == 0 for name in gauges), "the server is idle")
            watch.end(server)
            wrong = faults_of_run(server, watch, tally)
            report(server, watch, tally)
            wait = server.terminate()
            wrong += [f"the server ended with {wait}"] * (wait != 0)
    for each in wrong:
        print("WRONG:", each)  # noqa: T201
    for each in unknowns_of_run(watch):
        print("NOT TOLD:", each)  # noqa: T201
    print("sound" if not wrong else f"{len(wrong)} things are wrong")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
