"""interleaved: the outputs of several requests as one stream."""

import asyncio
from collections.abc import AsyncGenerator

from engine.client.interface import RequestStream
from engine.protocol import RequestOutput


async def interleaved(streams: list[RequestStream]) -> AsyncGenerator[tuple[int, RequestOutput]]:
    """The outputs of all streams with their index, each stream read only as fast as the caller takes them."""
    if len(streams) == 1:  # spares the common case a task an output
        async for output in streams[0]:
            yield 0, output
        return
    iterators = [aiter(stream) for stream in streams]
    pending = {asyncio.ensure_future(anext(iterator)): index for index, iterator in enumerate(iterators)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=pending.__getitem__):
                index = pending.pop(task)
                try:
                    output = task.result()
                except StopAsyncIteration:
                    continue
                yield index, output
                pending[asyncio.ensure_future(anext(iterators[index]))] = index
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
