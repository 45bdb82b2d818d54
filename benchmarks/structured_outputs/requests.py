"""Many requests with the schemas of a folder to a running server, and a check of every answer.

    python -m benchmarks.structured_outputs.requests CASES --url http://127.0.0.1:8000 --requests 10000

Requests are drawn at random: a schema as response_format (strict or not), as guided_json or as the arguments of a
required tool; streamed or not; one choice or two; with and without log probabilities and a seed; a limit of 8 to 400
tokens. Each must end in JSON that fits its schema, in `length`, or in a 400; any other error, and a request that takes
longer than --timeout, is wrong. CASES: a folder of JSON files with a key `schema`, such as MaskBench's. Needs `openai`
and `jsonschema`.
"""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
from openai import APIError, AsyncOpenAI, BadRequestError

_QUESTION = [{"role": "user", "content": "Fill in the form."}]


def _body(schema: dict[str, Any], generator: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"max_tokens": generator.choice([8, 40, 120, 400]), "temperature": 1.0}
    named = {"name": "answer", "schema": schema}
    match generator.randrange(4):
        case 0:
            body["response_format"] = {"type": "json_schema", "json_schema": {**named, "strict": True}}
        case 1:
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        case 2:
            body["guided_json"] = schema
        case 3:
            function = {"name": "answer", "parameters": schema, "strict": True}
            body |= {"tools": [{"type": "function", "function": function}], "tool_choice": "required"}
            body["parallel_tool_calls"] = False
    if generator.random() < 0.2:
        body["n"] = 2
    if generator.random() < 0.2:
        body["logprobs"] = True
    if generator.random() < 0.2:
        body["seed"] = generator.randrange(1000)
    return body


async def _ask(client: AsyncOpenAI, body: dict[str, Any], *, streams: bool) -> tuple[list[tuple[str, str]], bool]:
    """Return each choice's text (or its call's) and finish reason, and whether a parameter was listed as ignored."""
    extra = {name: body[name] for name in ("guided_json",) if name in body}
    fields = {name: value for name, value in body.items() if name not in extra}
    fields |= {"model": "demo", "messages": _QUESTION, "extra_body": extra}
    texts = [""] * body.get("n", 1)
    reasons = [""] * len(texts)
    if streams:
        raw = await client.chat.completions.with_raw_response.create(**fields, stream=True)
        async for chunk in raw.parse():
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                for piece in choice.delta.tool_calls or []:
                    texts[choice.index] += piece.function.arguments or ""
                reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    else:
        raw = await client.chat.completions.with_raw_response.create(**fields)
        for choice in raw.parse().choices:
            calls = choice.message.tool_calls or []
            texts[choice.index] = calls[0].function.arguments if calls else choice.message.content or ""
            reasons[choice.index] = choice.finish_reason
    return list(zip(texts, reasons, strict=True)), "x-ignored-parameters" in raw.headers


def _outcome(schema: dict[str, Any], text: str, reason: str, *, is_enforced: bool) -> str:
    if reason == "length":
        return "length"
    if reason not in ("stop", "tool_calls"):
        return f"wrong: finish_reason {reason}"
    try:
        value = json.loads(text)
    except ValueError:
        return "wrong: no JSON"
    try:
        jsonschema.validators.validator_for(schema)(schema).validate(value)
    except jsonschema.ValidationError:
        return "wrong: does not fit" if is_enforced else "JSON, with a keyword that was listed as ignored"
    return "JSON that fits"


async def run(options: argparse.Namespace) -> Counter[str]:
    generator = random.Random(options.seed)
    schemas = [json.loads(path.read_text())["schema"] for path in sorted(options.folder.glob("*.json"))]
    client = AsyncOpenAI(base_url=f"{options.url}/v1", api_key="none", timeout=options.timeout, max_retries=0)
    outcomes: Counter[str] = Counter()
    places = asyncio.Semaphore(options.concurrency)

    async def one(schema: dict[str, Any], body: dict[str, Any], *, streams: bool) -> None:
        async with places:
            try:
                choices, has_ignored = await _ask(client, body, streams=streams)
            except BadRequestError:
                outcomes["400"] += 1
                return
            except APIError as error:  # also one within a stream, and of the connection
                outcomes[f"wrong: {type(error).__name__}"] += 1
                _say(f"{error!r}: {json.dumps(body)[:2000]}")
                return
            for text, reason in choices:
                outcome = _outcome(schema, text, reason, is_enforced=not has_ignored)
                outcomes[outcome] += 1
                if outcome.startswith("wrong"):
                    _say(f"{outcome}: {text[:500]!r} of {json.dumps(body)[:2000]}")

    tasks = set()
    for index in range(options.requests):
        schema = generator.choice(schemas)
        tasks.add(asyncio.create_task(one(schema, _body(schema, generator), streams=generator.random() < 0.5)))
        if len(tasks) >= 4 * options.concurrency:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.gather(*done)  # raises what they raised
        if index % 500 == 499:
            _say(f"{index + 1:,} requests: {dict(outcomes)}")
    await asyncio.gather(*tasks)
    return outcomes


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="CASES")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="for one request")
    options = parser.parse_args()
    outcomes = asyncio.run(run(options))
    for outcome, count in outcomes.most_common():
        _say(f"| {outcome} | {count:,} |")
    return int(any(outcome.startswith("wrong") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
