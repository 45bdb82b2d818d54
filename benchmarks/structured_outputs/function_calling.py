"""Share of right tool calls of a server, by the cases and rules of the Berkeley Function Calling Leaderboard.

    headrace serve MODEL --port 8000
    python -m benchmarks.structured_outputs.function_calling --url http://127.0.0.1:8000 --folder bfcl

The folder has BFCL's `simple_python.jsonl`, `multiple.jsonl`, `parallel.jsonl` and `irrelevance.jsonl`, each with an
`.answers.jsonl` except the last. Calls are checked against their schemas if the `jsonschema` package is installed.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from benchmarks.structured_outputs.bfcl_cases import CATEGORIES, Case, load_cases
from benchmarks.structured_outputs.bfcl_rules import Call, count_fitting, find_fault
from benchmarks.tables import markdown

_MAX_TOKENS = 256
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer to one case."""

    calls: Sequence[Call] = ()
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    id: str
    answer: Answer
    fault: str | None  # None: right
    num_fitting: int | None  # calls that fit their schema; None: not checked


async def ask(client: httpx.AsyncClient, model: str, case: Case, tool_choice: str) -> Answer:
    body = {
        "model": model,
        "messages": case.messages,
        "tools": case.tools,
        "tool_choice": tool_choice,
        "temperature": 0,
        "max_tokens": _MAX_TOKENS,
    }
    try:
        response = await client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as error:
        return Answer(error=repr(error))
    if response.status_code != httpx.codes.OK:
        return Answer(error=f"{response.status_code} {response.text}")
    result = response.json()
    choice, usage = result["choices"][0], result["usage"]
    functions = [call["function"] for call in choice["message"].get("tool_calls") or ()]
    return Answer(
        [Call(function["name"], function["arguments"]) for function in functions],
        choice["message"].get("content") or "",
        choice["finish_reason"],
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


async def measure(options: argparse.Namespace) -> None:
    """Print the table, and write the answers after every category."""
    scored: dict[str, list[Scored]] = {}
    seconds: dict[str, float] = {}
    limits = httpx.Limits(max_connections=options.concurrency)
    async with httpx.AsyncClient(base_url=options.url, timeout=httpx.Timeout(_TIMEOUT_S), limits=limits) as client:
        model = (await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"]
        turns = asyncio.Semaphore(options.concurrency)

        async def score(case: Case) -> Scored:
            async with turns:
                answer = await ask(client, model, case, options.tool_choice)
            fault = answer.error or find_fault(case, answer.calls)
            return Scored(case.id, answer, fault, count_fitting(case, answer.calls))

        for category in CATEGORIES:
            if category == "irrelevance" and options.tool_choice == "required":
                continue  # every answer would be wrong
            cases = load_cases(options.folder, category, options.limit)
            start_s = time.perf_counter()
            scored[category] = await asyncio.gather(*map(score, cases))
            seconds[category] = time.perf_counter() - start_s
            if options.json is not None:
                found = {name: [asdict(each) for each in of_category] for name, of_category in scored.items()}
                options.json.write_text(json.dumps({"seconds": seconds, "cases": found}, indent=1))
    sys.stdout.write(show(scored, seconds) + "\n")


def show(scored: Mapping[str, Sequence[Scored]], seconds: Mapping[str, float]) -> str:
    """Return a Markdown table with a line for each category, and one for all."""
    head = ["", "right", "calls that fit", "errors", "prompt tokens", "output tokens", "seconds"]
    lines = [_line(category, each, seconds[category]) for category, each in scored.items()]
    everything = [each for of_category in scored.values() for each in of_category]
    return markdown(head, [*lines, _line("all", everything, sum(seconds.values()))])


def _line(label: str, scored: Sequence[Scored], seconds: float) -> list[str]:
    answers = [each.answer for each in scored]
    fitting = [each.num_fitting for each in scored if each.num_fitting is not None]
    return [
        label,
        f"{sum(each.fault is None for each in scored)} of {len(scored)}",
        f"{sum(fitting)} of {sum(len(answer.calls) for answer in answers)}" if fitting else "-",
        str(sum(bool(answer.error) for answer in answers)),
        f"{sum(answer.prompt_tokens for answer in answers):,}",
        f"{sum(answer.output_tokens for answer in answers):,}",
        f"{seconds:,.0f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--folder", type=Path, required=True, help="with BFCL's files")
    parser.add_argument("--tool-choice", choices=("auto", "required"), default="auto")
    parser.add_argument("--concurrency", type=int, default=4, help="concurrent requests")
    parser.add_argument("--limit", type=int, help="cases of each category (default: all)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every answer and what is wrong with it")
    options = parser.parse_args()
    try:
        asyncio.run(measure(options))
    except (httpx.HTTPError, FileNotFoundError) as error:
        sys.stderr.write(f"function_calling: {options.url} or {options.folder}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
