"""Cost of adapters for clients of headrace and of a rival: the same random adapters, requests with and without in turn.

    .venv/bin/python -m benchmarks.adapters.client_times MODEL.gguf --rival llama-server
    .venv/bin/python -m benchmarks.adapters.client_times FOLDER --rival vllm

The adapters change every matrix of attention and feed-forward: GGUF files for a GGUF model, PEFT folders for a folder
of safetensors. One server runs at a time, in turn. Prompts are random, and each is sent once. The time per token is the
time from the first token to the end of an answer, divided by the tokens after the first, for the last of the load's
streams; a ratio is the median over the turns. Servers without adapters (no `--lora`, `--enable-lora`) are measured,
too, since loaded adapters may slow down requests that do not use them.
"""

import argparse
import asyncio
import os
import random
import shlex
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.adapters.random_adapters import write_adapter
from benchmarks.rivals import NUM_SEQUENCES, rival_command
from benchmarks.servers import CompareError, started

_ROOT = Path(__file__).parents[2]
_NO_RIVAL = "none"
_RIVALS = ("llama-server", "vllm", _NO_RIVAL)
_BASE = "base"
_FIRST_ID, _LAST_ID = 1000, 20000  # tokens of prompts
_PROMPT, _LONG_PROMPT = 32, 512
_TIMEOUT_S = 600

# The adapter of each stream of a load.
Load = tuple[int | None, ...]
ONE: tuple[Load, Load] = ((None,), (0,))
EIGHT: tuple[Load, Load, Load] = ((None,) * NUM_SEQUENCES, (0,) * NUM_SEQUENCES, tuple(range(NUM_SEQUENCES)))

# Seconds of a token, by load; and of a long prompt, by adapter.
Times = dict[Load | int | None, list[float]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A server. fields: of a request for an adapter, or None. adapts: whether it was started with the adapters."""

    name: str
    command: str
    fields: Callable[[int | None], dict[str, Any]]
    adapts: bool = True

    @property
    def loads(self) -> Sequence[Load]:
        return (*ONE, *EIGHT) if self.adapts else (ONE[0], EIGHT[0])


async def measure(http: httpx.AsyncClient, contender: Contender, num_turns: int, num_output: int) -> Times:
    """Measure each load in each turn, after a warm-up turn. num_output: tokens after the first."""
    times: Times = defaultdict(list)
    for turn in range(num_turns + 1):
        found: dict[Load | int | None, float] = {}
        for load in contender.loads:
            first_s = await _seconds(http, contender, load, _PROMPT, 1)
            found[load] = (await _seconds(http, contender, load, _PROMPT, 1 + num_output) - first_s) / num_output
        for (adapter,) in ONE if contender.adapts else ONE[:1]:
            found[adapter] = await _seconds(http, contender, (adapter,), _LONG_PROMPT, 1)
        if turn:
            for key, taken_s in found.items():
                times[key].append(taken_s)
    return times


async def _seconds(
    http: httpx.AsyncClient, contender: Contender, load: Load, num_prompt: int, num_output: int
) -> float:
    """Return the seconds until all streams of the load have been answered."""

    async def ask(adapter: int | None) -> None:
        prompt = [random.randint(_FIRST_ID, _LAST_ID) for _ in range(num_prompt)]
        body = {"prompt": prompt, "max_tokens": num_output, "temperature": 0, "ignore_eos": True}
        reply = await http.post("/v1/completions", json={**body, **contender.fields(adapter)})
        if reply.status_code != 200:
            raise CompareError(f"{contender.name} answers {reply.status_code}: {reply.text[:500]}")
        usage = reply.json()["usage"]
        if (usage["prompt_tokens"], usage["completion_tokens"]) != (num_prompt, num_output):
            raise CompareError(f"{contender.name} has not generated {num_output} tokens from {num_prompt}: {usage}")

    began_s = time.perf_counter()
    await asyncio.gather(*map(ask, load))
    return time.perf_counter() - began_s


def table(times: Mapping[str, Times]) -> str:
    """Return a table of milliseconds without adapters, and ratios with them."""

    def base(found: Times, key: Load | None) -> str:
        return f"{statistics.median(found[key]) * 1000:.1f} ms"

    def ratio(found: Times, key: Load | int, of: Load | None) -> str:
        if key not in found:
            return "-"
        return f"{statistics.median(own / base for own, base in zip(found[key], found[of], strict=True)):.2f}"

    lines = [
        f"| | a token | with an adapter | {NUM_SEQUENCES} streams, a token | one adapter | {NUM_SEQUENCES} adapters | "
        f"a prompt of {_LONG_PROMPT} | with an adapter |",
        "| --- " * 8 + "|",
    ]
    for name, found in times.items():
        cells = [base(found, ONE[0]), ratio(found, ONE[1], ONE[0])]
        cells += [base(found, EIGHT[0]), *(ratio(found, load, EIGHT[0]) for load in EIGHT[1:])]
        cells += [base(found, None), ratio(found, 0, None)]
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    return "\n".join(lines)


def _contenders(options: argparse.Namespace, adapters: Sequence[Path]) -> list[Contender]:
    """Return headrace and the rival, if one is given. Raises CompareError if the rival is not installed."""
    model = str(options.model)
    modules = [f"a{index}={shlex.quote(str(path))}" for index, path in enumerate(adapters)]
    lora = f"--served-model-name {_BASE} --enable-lora --max-loras {len(adapters)} --max-lora-rank {options.rank}"
    own = (
        f"headrace serve {shlex.quote(model)} --port {{port}} --threads {options.threads} --max-num-seqs "
        f"{NUM_SEQUENCES} --no-enable-prefix-caching"
    )
    own_loaded = f"{own} {lora} {' '.join(f'--lora-modules {each}' for each in modules)}"

    def by_name(adapter: int | None) -> dict[str, Any]:
        return {"model": _BASE if adapter is None else f"a{adapter}"}

    def by_scale(adapter: int | None) -> dict[str, Any]:
        scales = [{"id": index, "scale": float(index == adapter)} for index in range(len(adapters))]
        return {"cache_prompt": False, "lora": scales}

    ours = [
        Contender("headrace --enable-lora", own_loaded, by_name),
        Contender("headrace", f"{own} --served-model-name {_BASE}", by_name, adapts=False),
    ]
    if options.rival == _NO_RIVAL:
        return ours
    rival = rival_command(options.rival, options.rivals, model, options.threads)
    if options.rival == "vllm":
        named = f"{rival} --served-model-name {_BASE}"
        loaded = f"{rival} {lora} --lora-modules {' '.join(modules)}"
        return [
            *ours,
            Contender("vllm --enable-lora", loaded, by_name),
            Contender("vllm", named, by_name, adapts=False),
        ]
    loaded = " ".join(f"--lora {shlex.quote(str(path))}" for path in adapters)
    return [
        *ours,
        Contender("llama-server --lora", f"{rival} {loaded}", by_scale),
        Contender("llama-server", rival, lambda _: {"cache_prompt": False}, adapts=False),
    ]


async def _run(contenders: Sequence[Contender], times: dict[str, Times], options: argparse.Namespace) -> None:
    """Fill `times`, by contender. Raises CompareError."""
    for number in range(options.rounds):
        for contender in contenders:
            with started(contender.command, options.port, _TIMEOUT_S) as server:
                async with httpx.AsyncClient(base_url=server.url, timeout=_TIMEOUT_S, trust_env=False) as http:
                    measured = await measure(http, contender, options.turns, options.output_len)
            of_contender = times.setdefault(contender.name, defaultdict(list))
            for key, found in measured.items():
                of_contender[key] += found
            sys.stderr.write(f"round {number + 1} of {options.rounds}: {contender.name} is measured\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.adapters.client_times", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model", type=Path, help="a GGUF file, or a folder of safetensors")
    parser.add_argument("--rival", choices=_RIVALS, default="llama-server")
    parser.add_argument("--rivals", type=Path, default=_ROOT / "rivals", metavar="FOLDER", help="their environments")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each server (default: all cores)")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each server (default: 3)")
    parser.add_argument("--turns", type=int, default=3, help="of the loads in a round (default: 3)")
    parser.add_argument("--output-len", type=int, default=64, help="tokens of a stream after its first (default: 64)")
    parser.add_argument("--port", type=int, default=8970)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that running servers are stopped too
    times: dict[str, Times] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            places = [Path(folder) / f"a{index}" for index in range(NUM_SEQUENCES)]
            adapters = [write_adapter(options.model, place, options.rank, index) for index, place in enumerate(places)]
            asyncio.run(_run(_contenders(options, adapters), times, options))
    except CompareError as error:
        sys.stderr.write(f"client_times: {error}\n")
        return 1
    finally:  # what was measured is shown, however the comparison ends
        if times:
            sys.stdout.write(table(times) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
