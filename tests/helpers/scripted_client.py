"""A ProcessClient of a scripted engine process (tests/helpers/scripted_engine.py), and what tests do with it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from engine.client.interface import RequestStream
from engine.client.process_client import ProcessClient
from engine.config import EngineConfig
from engine.protocol import EngineRequest, RequestOutput, SamplingParams
from tests.helpers.deadline import DEADLINE_S


@asynccontextmanager
async def scripted_client(mode: str = "serving", **options: object) -> AsyncIterator[ProcessClient]:
    command = (sys.executable, "-m", "tests.helpers.scripted_engine", mode)
    client = ProcessClient(EngineConfig(), **{"max_num_waiting": 4, "command": command, **options})  # type: ignore[arg-type]
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


def scripted_request(name: str, *prompt: int) -> EngineRequest:
    return EngineRequest(id=name, prompt_ids=list(prompt), sampling=SamplingParams(max_tokens=9), arrival_s=0.0)


def scripted_pid() -> int:
    """The process id of the scripted engine; servers of other tests may be this process's children, too."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (pid,) = (pid for pid in children if b"scripted_engine" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return int(pid)


async def read_all(stream: RequestStream) -> list[RequestOutput]:
    async with asyncio.timeout(DEADLINE_S):
        return [output async for output in stream]
