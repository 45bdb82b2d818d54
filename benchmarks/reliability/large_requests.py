"""Cost of large requests for a running server, and whether it keeps answering in the meantime.

    .venv/bin/headrace serve MODEL.gguf --port 8000 &
    .venv/bin/python -m benchmarks.reliability.large_requests --url http://127.0.0.1:8000 --pid $!

For each kind of request: the status, the time to the answer, the longest time of /live in between, and the server
process's memory and threads: the peak while it ran, and three seconds later. Linux only.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.live_probe import LiveProbe, connect

CHAT = "/v1/chat/completions"
_SIZE = 7_900_000
_SETTLED_S = 3.0


def chat(content: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 1}).encode()


PROSE = "The quick brown fox jumps over the lazy dog. " * (_SIZE // 45)
BODIES: dict[str, tuple[str, bytes, int]] = {  # name -> path, body, number of concurrent requests
    "8 MB of prose": (CHAT, chat(PROSE), 1),
    "4 times at once": (CHAT, chat(PROSE), 4),
    "8 MB of digits": (CHAT, chat("0123456789" * (_SIZE // 10)), 1),
    "8 MB of one letter": (CHAT, chat("a" * _SIZE), 1),
    "8 MB of '<'": (CHAT, chat("<" * _SIZE), 1),
    "8 MB, its end kept": (
        CHAT,
        json.dumps({**json.loads(chat(PROSE)), "truncate_prompt_tokens": 100}).encode(),
        1,
    ),
    "1 MB counted": ("/tokenize", json.dumps({"prompt": PROSE[: 1 << 20]}).encode(), 1),
    "100,000 messages": (CHAT, json.dumps({"messages": [{"role": "user", "content": "hi"}] * 100_000}).encode(), 1),
    "8,000 messages": (CHAT, json.dumps({"messages": [{"role": "user", "content": "hi"}] * 8_000}).encode(), 1),
    "2.6 million lists": (CHAT, b'{"messages":[' + b"[]," * 2_600_000 + b"[]]}", 1),
    "3.9 million numbers": ("/v1/completions", b'{"prompt":[' + b"0," * 3_900_000 + b"0]}", 1),
    # For a model that embeds; others refuse it immediately, and a model that embeds refuses the chats above.
    "2,048 texts to embed": (
        "/v1/embeddings",
        json.dumps({"input": [f"{number} {PROSE[:3000]}" for number in range(2048)], "truncate": True}).encode(),
        1,
    ),
}


class Memory:
    """The server's memory and threads, and their peaks."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak_mib, self.peak_threads = self.memory()

    def memory(self) -> tuple[float, int]:
        """Return (resident MiB, threads) of the server process."""
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"])

    def look(self) -> None:
        mib, threads = self.memory()
        self.peak_mib, self.peak_threads = max(self.peak_mib, mib), max(self.peak_threads, threads)


def post(url: str, path: str, body: bytes) -> tuple[int, str]:
    connection = connect(url)
    connection.request("POST", path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()[:110].decode(errors="replace")


def leave(url: str, path: str, body: bytes) -> None:
    """Send a request and close the connection immediately."""
    connection = connect(url)
    connection.request("POST", path, body, {"content-type": "application/json"})
    connection.close()


def measure(name: str, url: str, pid: int, work: Callable[[], str]) -> None:
    memory = Memory(pid)
    with LiveProbe(url, memory.look) as probe:
        before_mib, _ = memory.memory()
        began_s = time.perf_counter()
        result = work()
        took_s = time.perf_counter() - began_s
        time.sleep(0.3)
    time.sleep(_SETTLED_S)
    after_mib, after_threads = memory.memory()
    sys.stdout.write(
        f"{name:22} {took_s:6.2f} s  /live {probe.take_longest_s() * 1000:5.0f} ms  memory {before_mib:5.0f}, at most "
        f"{memory.peak_mib:5.0f}, then {after_mib:5.0f} MiB  threads {memory.peak_threads:3}, then {after_threads:3}  "
        f"{result}\n"
    )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--pid", type=int, required=True, help="of the server process")
    given = parser.parse_args()

    def at_once(path: str, body: bytes, count: int) -> str:
        with ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(lambda _: post(given.url, path, body), range(count)))
        return f"{answers[0][0]} {answers[0][1]}"

    for name, (path, body, count) in BODIES.items():
        measure(name, given.url, given.pid, lambda p=path, b=body, c=count: at_once(p, b, c))  # type: ignore[misc]
    storm = json.dumps({"prompt": PROSE[: 1 << 19]}).encode()

    def leave_all() -> str:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: leave(given.url, "/tokenize", storm), range(200)))
        return str(post(given.url, "/tokenize", json.dumps({"prompt": "short"}).encode())[0])

    measure("200 that leave", given.url, given.pid, leave_all)


if __name__ == "__main__":
    main()
