"""Structured outputs, tools and bad input of a real server, through the official client."""

import asyncio
import itertools
import json
import random
import re
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel, Field

from tests.helpers.server_process import API_KEY, ServerProcess

QUESTION: list[Any] = [{"role": "user", "content": "Tell me about a city."}]


class City(BaseModel):
    name: str = Field(max_length=30)
    inhabitants: int = Field(ge=0, le=40_000_000)
    continent: Literal["Africa", "America", "Asia", "Europe", "Oceania"]
    sights: list[str] = Field(max_length=2)


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
        "strict": True,
    },
}


@pytest.fixture
def client(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=API_KEY, max_retries=0)


@pytest.fixture
def async_client(server: ServerProcess) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key=API_KEY, max_retries=0, timeout=300)


@pytest.mark.parametrize("fields", [{}, {"n": 3, "seed": 5}, {"logprobs": True, "top_logprobs": 2}, {"seed": 7}])
def test_the_client_parses_into_a_model(client: OpenAI, fields: dict[str, Any]) -> None:
    completion = client.chat.completions.parse(
        model="demo", messages=QUESTION, response_format=City, max_completion_tokens=400, **fields
    )
    assert len(completion.choices) == fields.get("n", 1)
    for choice in completion.choices:
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, City)
        assert ": " not in re.sub(r'"[^"]*"', "", choice.message.content or "")  # compact
        if choice.logprobs is not None:
            tokens = choice.logprobs.content or []
            assert b"".join(bytes(token.bytes or []) for token in tokens).decode() == choice.message.content


def test_a_seed_gives_the_same_text_with_and_without_forced_tokens(client: OpenAI) -> None:
    """Log probabilities have every token sampled; without them what the schema determines is appended."""
    texts = [
        client.chat.completions.parse(
            model="demo",
            messages=QUESTION,
            response_format=City,
            max_completion_tokens=400,
            seed=3,
            extra_body={"logprobs": logprobs},
        )
        .choices[0]
        .message.content
        for logprobs in (False, True)
    ]
    assert texts[0] == texts[1]


def test_the_client_parses_a_stream(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="demo", messages=QUESTION, response_format=City, max_completion_tokens=400
    ) as stream:
        parsed = [event.parsed for event in stream if event.type == "content.done"]
    assert isinstance(parsed[0], City)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_required_call_fits_its_schema(client: OpenAI, choice: Any) -> None:
    completion = client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        tools=[WEATHER],
        tool_choice=choice,
        parallel_tool_calls=False,
        max_completion_tokens=100,
    )
    assert completion.choices[0].finish_reason == "tool_calls"
    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"}
    assert arguments["unit"] in ("celsius", "fahrenheit")


async def test_many_schemas_at_once_leave_free_text_as_it_is(async_client: AsyncOpenAI) -> None:
    generator = random.Random(4)

    async def free_text() -> str | None:
        completion = await async_client.chat.completions.create(
            model="demo", messages=QUESTION, max_tokens=40, temperature=0
        )
        return completion.choices[0].message.content

    async def constrained(schema: dict[str, Any], max_tokens: int) -> None:
        completion = await async_client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            max_tokens=max_tokens,
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        )
        (choice,) = completion.choices
        if choice.finish_reason == "stop":
            assert set(json.loads(choice.message.content or "")) == set(schema["properties"])
        else:
            assert choice.finish_reason == "length"

    alone = await free_text()
    kinds: list[dict[str, Any]] = [
        {"type": "integer"},
        {"type": "boolean"},
        {"enum": ["red", "green"]},
        {"type": "string", "maxLength": 12},
        {"type": "array", "items": {"type": "number"}, "maxItems": 3},
    ]
    schemas = []
    for index in range(24):
        properties = {f"key_{index}_{name}": generator.choice(kinds) for name in "abcd"[: generator.randint(1, 4)]}
        schemas.append(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
    texts, *_ = await asyncio.gather(
        asyncio.gather(*(free_text() for _ in range(8))),
        *(constrained(schema, generator.choice([8, 40, 100])) for schema in schemas),
    )
    assert set(texts) == {alone}


BAD: dict[str, dict[str, Any]] = {
    "a reference without an end": {"guided_json": {"$ref": "#"}},
    "a repetition beyond bounds": {"guided_regex": "a{100000000}"},
    "a regular expression that explodes": {"guided_regex": "(a|aa)+" * 200},
    "a schema of ten thousand levels": {"guided_json": '{"items":' * 10_000 + "{}" + "}" * 10_000},
    "a regular expression that looks ahead": {"guided_regex": "(?=a)b"},
    "five hundred tools": {
        "tools": [{"type": "function", "function": {"name": f"tool_{index}"}} for index in range(500)]
    },
    "a name of strange characters": {"tools": [{"type": "function", "function": {"name": 'a"b\n'}}]},
    "an unknown tool": {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "nobody"}}},
    "no grammar": {"guided_grammar": "start: ("},
    "a schema of two mebibytes": {"guided_json": {"enum": ["x" * 1000 + str(index) for index in range(2000)]}},
}


async def test_bad_input_is_refused_while_another_client_gets_its_tokens(async_client: AsyncOpenAI) -> None:
    stream = await async_client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        max_tokens=250,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    is_refusing, num_meanwhile, num_tokens = False, 0, 0

    async def read() -> None:
        nonlocal num_meanwhile, num_tokens
        async for chunk in stream:
            num_meanwhile += is_refusing
            num_tokens = chunk.usage.completion_tokens if chunk.usage else num_tokens

    reading = asyncio.create_task(read())
    every = itertools.cycle(BAD.values())
    num_refused = 0
    while num_refused < len(BAD) or not reading.done():  # on a slow machine the stream outlasts one round of them
        is_refusing = True
        with pytest.raises(BadRequestError):
            await async_client.chat.completions.create(
                model="demo", messages=QUESTION, max_tokens=5, extra_body=next(every)
            )
        is_refusing = False
        num_refused += 1
    await reading
    assert num_tokens == 250
    assert num_meanwhile > 0
