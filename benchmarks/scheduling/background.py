"""Work of the batch class that runs on a server beside clients: a batch, or `headrace synthesize` against it."""

import asyncio
import json
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Protocol, Self

import httpx

CHAT = "/v1/chat/completions"
_ROOT = Path(__file__).parents[2]
_SEEDS = _ROOT / "examples" / "faq.jsonl"
_LINE_WORDS, _LINE_OUTPUT = (10, 40), (60, 120)
_LINES = 4000  # more than a turn can run
_SETTLED_S = 2.0  # until the work runs steadily
_WORDS = ["river", "stone", "lamp", "winter", "garden", "letter", "bridge", "morning", "window", "paper"]


class Background(Protocol):
    """Work that a server has until it is ended."""

    @classmethod
    async def begin(cls, http: httpx.AsyncClient, seed: int) -> Self:
        """Start the work; return once the server computes it."""

    async def end(self) -> None:
        """Stop the work; return once the server has no more of it."""


class OfficialBatch:
    """A batch of chats that was created by the official routes."""

    def __init__(self, http: httpx.AsyncClient, batch_id: str) -> None:
        self._http = http
        self._id = batch_id

    @classmethod
    async def begin(cls, http: httpx.AsyncClient, seed: int) -> Self:
        rng = random.Random(f"batch {seed}")
        lines = [
            {
                "custom_id": str(number),
                "method": "POST",
                "url": CHAT,
                "body": chat_body(rng, rng.randint(*_LINE_WORDS), rng.randint(*_LINE_OUTPUT)),
            }
            for number in range(_LINES)
        ]
        before, _ = await computed_tokens(http)
        data = "\n".join(map(json.dumps, lines)).encode()
        uploaded = await http.post("/v1/files", files={"file": ("lines.jsonl", data)}, data={"purpose": "batch"})
        uploaded.raise_for_status()
        body = {"input_file_id": uploaded.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
        created = await http.post("/v1/batches", json=body)
        created.raise_for_status()
        await _until_computed(http, before)
        return cls(http, str(created.json()["id"]))

    async def end(self) -> None:
        (await self._http.post(f"/v1/batches/{self._id}/cancel")).raise_for_status()
        while (await self._http.get(f"/v1/batches/{self._id}")).json()["status"] != "cancelled":
            await asyncio.sleep(0.05)


class Synthesis:
    """A run of `headrace synthesize self-instruct`: waves of tasks with a JSON schema, then their answers."""

    def __init__(self, process: asyncio.subprocess.Process, folder: tempfile.TemporaryDirectory[str]) -> None:
        self._process = process
        self._folder = folder

    @classmethod
    async def begin(cls, http: httpx.AsyncClient, seed: int) -> Self:
        before, _ = await computed_tokens(http)
        folder = tempfile.TemporaryDirectory()
        out = str(Path(folder.name, "lines.jsonl"))
        command = ("synthesize", "self-instruct", "--server", str(http.base_url), "--input", str(_SEEDS), "--out", out)
        limits = ("--lines", str(_LINES), "--min-acceptance", "0", "--seed", str(seed))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.cli", *command, *limits),
            cwd=_ROOT,
            stdout=asyncio.subprocess.DEVNULL,
        )
        await _until_computed(http, before)
        return cls(process, folder)

    async def end(self) -> None:
        """Interrupt the command, which cancels its batch; raise RuntimeError if it has ended by itself."""
        if self._process.returncode is not None:
            raise RuntimeError(f"headrace synthesize ended with {self._process.returncode} before its turn")
        self._process.send_signal(signal.SIGINT)
        await self._process.wait()
        self._folder.cleanup()


def chat_body(rng: random.Random, num_words: int, max_tokens: int) -> dict[str, object]:
    """Return a unique request, so that the prefix cache helps only with the template."""
    content = f"{rng.random()} " + " ".join(rng.choices(_WORDS, k=num_words))
    return {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens, "ignore_eos": True}


async def computed_tokens(http: httpx.AsyncClient) -> tuple[float, float]:
    """Return the tokens computed for batches so far, and the recomputed tokens."""
    text = (await http.get("/metrics")).text
    found = {"prefill": 0.0, "decode": 0.0, "recomputed": 0.0}
    for line in text.splitlines():
        if line.startswith("headrace_batch_computed_tokens_total{"):
            labels, _, value = line.rpartition(" ")
            found[next(kind for kind in found if f'kind="{kind}"' in labels)] += float(value)
    return found["prefill"] + found["decode"], found["recomputed"]


async def _until_computed(http: httpx.AsyncClient, before: float) -> None:
    while (await computed_tokens(http))[0] == before:
        await asyncio.sleep(0.05)
    await asyncio.sleep(_SETTLED_S)
