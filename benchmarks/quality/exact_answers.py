"""Proof of --deterministic over HTTP: answers alone, under load, and with other numbers of threads, equal to the bit.

    .venv/bin/python -m benchmarks.quality.exact_answers MODEL... [--args '--quantization none'] [--no-deterministic]

The first server answers all requests one after another. Each further run sends them in another order, alone or many at
once, and its texts, log probabilities and ends are compared with the first ones. Half of the requests are greedy, half
are sampled with seeds; a part of them share prefixes, and a tenth ask for the log probabilities of their prompts. With
--no-deterministic, servers run without the option, to see what differs then.
"""

import argparse
import asyncio
import itertools
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.results import machine_name
from benchmarks.servers import CompareError, free_port, started
from benchmarks.tables import markdown
from engine.command_io.progress import counting_bars
from server.commands.replay.answers import read_answer
from server.commands.replay.comparing import Difference, find_differences

_TEXT = Path(__file__).parents[2] / "docs/performance.md"
_START_TIMEOUT_S = 600
_SHARED = (100, 250, 400, 550)  # tokens of shared prefixes
_SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0, "repetition_penalty": 1.1},
    {"temperature": 1.0, "top_k": 40, "frequency_penalty": 0.3},
    {"temperature": 0},
    {"temperature": 1.2, "min_p": 0.05},
)
_HEAD = ("model", "threads", "at once", "answers", "same tokens", "equal to the bit", "tokens")
_SHOWN = 5  # differences of a run

Requests = list[dict[str, Any]]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.quality.exact_answers", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=16, help="requests in a run under load")
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the servers, in turn")
    parser.add_argument("--args", default="", help="further options of headrace serve")
    parser.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    lines: list[list[str]] = []
    found: list[str] = []
    try:
        for model in options.models:
            rows, differences = _check(model, options)
            lines += rows
            found += differences
    except CompareError as error:
        sys.stderr.write(f"exact_answers: {error}\n")
        return 1
    finally:
        if lines:
            mode = "--deterministic" if options.deterministic else "no --deterministic"
            sys.stdout.write(f"On {machine_name()}, {' '.join([mode, options.args]).strip()}.\n\n")
            sys.stdout.write(markdown(_HEAD, lines) + "\n")
            sys.stdout.write("".join(f"\n{line}" for line in found) + "\n" * bool(found))
    return 1 if found else 0


def _check(model: str, options: argparse.Namespace) -> tuple[list[list[str]], list[str]]:
    """Run all servers of a model. Return the table's lines, and descriptions of differences."""
    lines, found = [], []
    expected: list[bytes] | None = None
    requests: Requests = []
    for threads in options.threads:
        mode = "--deterministic " if options.deterministic else ""
        command = f"headrace serve {model} --port {{port}} --threads {threads} {mode}{options.args}"
        with started(command, free_port(), _START_TIMEOUT_S) as server:
            requests = requests or make_requests(_token_ids(server.url), options.requests, options.max_tokens)
            for at_once in (1, options.at_once):
                what = f"{Path(model).name}, {threads} threads, {at_once} at once"
                answers = _answers(server.url, requests, at_once, what)
                expected = expected or answers
                differing = compare(expected, answers)
                num_other_tokens = sum(each.what == "token" for each in differing.values())
                counts = [len(answers), len(answers) - num_other_tokens, len(answers) - len(differing)]
                lines.append([Path(model).name, str(threads), str(at_once), *map(str, counts), _num_tokens(answers)])
                found += [
                    f"{what}: request {number}, {first.what}, token {first.position}: {first.stored} {first.computed}"
                    for number, first in list(differing.items())[:_SHOWN]
                ]
    return lines, found


def make_requests(ids: Sequence[int], num: int, max_tokens: int, *, max_prompt: int = 600) -> Requests:
    """Return completions with prompts of 10 to `max_prompt` tokens cut out of `ids`."""
    source = random.Random(0)
    shared = [min(length, max_prompt * 3 // 4) for length in _SHARED]
    requests = []
    for number, sampling in zip(range(num), itertools.cycle(_SAMPLING), strict=False):
        prefix = source.choice(shared) if source.random() < 0.5 else 0
        length = source.randint(10, max_prompt - prefix)
        start = source.randrange(len(ids) - length)
        body = {
            "prompt": [*ids[:prefix], *ids[start : start + length]],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "logprobs": 5,
            "seed": number,
        }
        requests.append({**body, **sampling} | ({"prompt_logprobs": 1} if number % 10 == 9 else {}))
    return requests


async def send(
    url: str, requests: Requests, at_once: int, on_answer: Callable[[], object] = lambda: None, key: str | None = None
) -> list[bytes]:
    """Return the answers in the order of the requests, which are sent in another one if there are several at once.

    Raises CompareError if a request fails.
    """
    order = list(range(len(requests)))
    if at_once > 1:
        random.Random(at_once).shuffle(order)
    answers: list[bytes] = [b""] * len(requests)
    left = iter(order)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=None, trust_env=False) as http:

        async def work() -> None:
            for number in left:
                response = await http.post("/v1/completions", json=requests[number])
                if response.status_code != 200:
                    raise CompareError(f"request {number} failed: {response.status_code} {response.text[:500]}")
                answers[number] = response.content
                on_answer()

        await asyncio.gather(*(work() for _ in range(at_once)))
    return answers


def compare(expected: Sequence[bytes], answers: Sequence[bytes]) -> dict[int, Difference]:
    """Return the first difference of each answer that has one, by the request's number."""
    found = {}
    for number, pair in enumerate(zip(expected, answers, strict=True)):
        stored, computed = (read_answer(data, f"answer {number}") for data in pair)
        difference = next(find_differences(stored, computed, lambda _: [], lambda _: ""), None)
        if difference is not None:
            found[number] = difference
    return found


def _answers(url: str, requests: Requests, at_once: int, what: str) -> list[bytes]:
    with counting_bars(redraws_itself=True) as bars:
        bar = bars.add_task(what, total=len(requests))
        return asyncio.run(send(url, requests, at_once, lambda: bars.advance(bar)))


def _token_ids(url: str) -> list[int]:
    response = httpx.post(f"{url}/tokenize", json={"prompt": _TEXT.read_text()[:40_000]}, timeout=60, trust_env=False)
    ids: list[int] = response.json()["tokens"]
    return ids


def _num_tokens(answers: Sequence[bytes]) -> str:
    return f"{sum(read_answer(data, 'an answer').num_tokens or 0 for data in answers):,}"


if __name__ == "__main__":
    sys.exit(main())
