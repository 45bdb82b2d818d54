"""Cost and gain of a schema: tokens per second with structured outputs against free text, on a running server.

    headrace serve MODEL --port 8000
    python -m benchmarks.structured_outputs.speed --url http://127.0.0.1:8000 --rounds 5

Each round runs every case and free text in turn, so that a machine's moods affect both; the table has medians of the
ratios. Needs only the `openai` package.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

_PROMPT = (
    "Write about a traveler, a harbor and a storm at night, with names, numbers and places. Go on as long as you can."
)
_WORDS = (
    "customer",
    "billing",
    "shipping",
    "delivery",
    "insurance",
    "warehouse",
    "carrier",
    "payment",
    "invoice",
    "return",
)


@dataclass(frozen=True)
class Case:
    """Fields of the request body, for each stream."""

    name: str
    fields: Sequence[dict[str, Any]]


def _schema(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def _ten_fields(suffix: str) -> dict[str, Any]:
    """Return a schema of ten required fields with long names and short values."""
    return _schema({f"{word}_reference_identifier_{suffix}": {"type": "integer"} for word in _WORDS})


def cases() -> list[Case]:
    text = {"type": "string", "minLength": 150, "maxLength": 400}
    return [
        Case("ten long names, numbers", [_ten_fields("main")]),
        Case("one long string", [_schema({"text": text})]),
        Case(
            "list of strings",
            [_schema({"names": {"type": "array", "items": {"type": "string"}, "minItems": 20, "maxItems": 25}})],
        ),
        Case("any JSON object", [{"response_format": {"type": "json_object"}}]),
        Case("any text (regex)", [{"structured_outputs": {"regex": r"(.|\n){200,400}"}}]),
        Case(
            "16 streams, 16 schemas",
            [_schema({f"text_{index}": text, f"number_{index}": {"type": "integer"}}) for index in range(16)],
        ),
    ]


async def tokens_per_second(client: AsyncOpenAI, model: str, fields: Sequence[dict[str, Any]]) -> float:
    """Return the tokens per second of all streams together, from the first token to the last."""
    first_s: list[float] = []

    async def run(index: int, extra: dict[str, Any]) -> int:
        stream = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": f"{_PROMPT} ({index})"}],
            max_tokens=128,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=extra,
        )
        tokens = 0
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                first_s.append(time.perf_counter())
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
        return tokens

    counts = await asyncio.gather(*(run(index, extra) for index, extra in enumerate(fields)))
    return (sum(counts) - len(counts)) / (time.perf_counter() - min(first_s))


async def measure(url: str, rounds: int) -> None:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600)
    model = (await client.models.list()).data[0].id
    _say("| case | streams | tokens/s | free text, tokens/s | ratio |")
    _say("| --- | ---: | ---: | ---: | ---: |")
    for case in cases():
        free = [{}] * len(case.fields)
        await tokens_per_second(client, model, case.fields)  # compile the grammars, cache the prompts
        await tokens_per_second(client, model, free)
        pairs = [
            (await tokens_per_second(client, model, case.fields), await tokens_per_second(client, model, free))
            for _ in range(rounds)
        ]
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        _say(f"| {case.name} | {len(case.fields)} | {ours:.1f} | {theirs:.1f} | {ratio:.2f} |")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.url, arguments.rounds))


if __name__ == "__main__":
    main()
