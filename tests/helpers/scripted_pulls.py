"""ScriptedFetch: in place of the process that fetches a model, what a test has it say."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator

from engine.command_io.findings import ok
from engine.command_io.pulling import Pulled, PullMachine, PullProgress

Message = PullMachine | PullProgress | Pulled
PULLED = Pulled("/cache/model.gguf", 1000, ok("model", "about 1 KiB of weights"))


def downloaded(done: int, total: int = 1000) -> PullProgress:
    return PullProgress("download it", done, total, "B")


class ScriptedFetch:
    """Fetches of models, each by name: `say` and `fail` are for those that run now."""

    def __init__(self) -> None:
        self.begun: list[str] = []  # names of models in the order in which their fetches began
        self.closed: list[str] = []
        self._queues: dict[str, asyncio.Queue[Message | Exception]] = defaultdict(asyncio.Queue)

    async def __call__(self, model: str) -> AsyncGenerator[Message]:
        self.begun.append(model)
        try:
            while True:
                message = await self._queues[model].get()
                if isinstance(message, Exception):
                    raise message
                yield message
                if isinstance(message, Pulled):
                    return
        finally:
            self.closed.append(model)

    def say(self, model: str, *messages: Message | Exception) -> None:
        for message in messages:
            self._queues[model].put_nowait(message)
