"""The processor time that a full server needs to refuse a request.

    .venv/bin/python -m benchmarks.reliability.refusals

The server, whose engine does nothing and is always full, has its own process; its processor time is read before and
after. Other programs on the machine matter little, apart from their effect on caches.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine

from benchmarks.raw_http import RawConnection

_PATH, _BODY = "/v1/chat/completions", {"messages": [{"role": "user", "content": "some words " * 20}]}
_AT_ONCE = 20


async def serve() -> None:
    """Print the port, then, for each line of input, the processor time so far."""
    from tests.helpers.fake_client import FakeClient, says
    from tests.helpers.http_serving import serving

    client = FakeClient(says("never"))
    client.capacity = 0
    async with serving(client, log_requests=False) as served:
        sys.stdout.write(f"{served.port}\n")
        sys.stdout.flush()
        while await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(f"{time.process_time()}\n")
            sys.stdout.flush()


async def refused(connection: RawConnection) -> None:
    answer = await connection.post(_PATH, _BODY)
    assert answer.status == 429, answer.status


async def over_kept_connections(url: str, num_requests: int) -> None:
    async def one() -> None:
        async with RawConnection(url) as connection:
            for _ in range(num_requests // _AT_ONCE):
                await refused(connection)

    await asyncio.gather(*(one() for _ in range(_AT_ONCE)))


async def over_new_connections(url: str, num_requests: int) -> None:
    async def one() -> None:
        for _ in range(num_requests // _AT_ONCE):
            async with RawConnection(url) as connection:
                await refused(connection)

    await asyncio.gather(*(one() for _ in range(_AT_ONCE)))


def measure(num_requests: int) -> None:
    command = [sys.executable, "-m", "benchmarks.reliability.refusals", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask, answers = process.stdin, process.stdout

        def used_s() -> float:
            ask.write("\n")
            ask.flush()
            return float(answers.readline())

        url = f"http://127.0.0.1:{int(answers.readline())}"
        asyncio.run(over_new_connections(url, num_requests))  # warm-up
        kinds: dict[str, Callable[[str, int], Coroutine[None, None, None]]] = {
            "kept": over_kept_connections,
            "new": over_new_connections,
        }
        for name, load in kinds.items():
            before_s = used_s()
            asyncio.run(load(url, num_requests))
            each_ms = (used_s() - before_s) / num_requests * 1000
            sys.stdout.write(f"{name} connections: {each_ms:.2f} ms of processor time a refusal\n")
        ask.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.reliability.refusals", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
    else:
        measure(options.requests)
    return 0


if __name__ == "__main__":
    sys.exit(main())
