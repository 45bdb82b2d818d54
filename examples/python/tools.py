"""Tools: the model asks for calls, this program makes them, and the model answers with their results.

Once with whole answers, once streamed. The first turn has tool_choice "required", so that even a model that is poor at
choosing makes a call; with "auto", the default, the model decides. The server enforces the tool's schema in the
arguments.
"""

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import openai
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam, ParsedChatCompletionMessage
from pydantic import BaseModel, Field

Message = ParsedChatCompletionMessage[None]
Ask = Callable[[OpenAI, str, list[ChatCompletionMessageParam]], Message]

CELSIUS = {"Paris": 18, "Oslo": 4, "Cairo": 31}


class Unit(StrEnum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


class GetWeather(BaseModel):
    """The temperature in a city."""

    city: str = Field(description="The city's name, such as Paris", max_length=40)
    unit: Unit

    def run(self) -> str:
        degrees = CELSIUS.get(self.city)
        if degrees is None:
            return f"no data for {self.city}; there is some for {', '.join(CELSIUS)}"
        return f"{degrees if self.unit is Unit.CELSIUS else degrees * 9 / 5 + 32:g} degrees {self.unit.value}"


TOOLS = [openai.pydantic_function_tool(GetWeather, name="get_weather")]


def ask(client: OpenAI, model: str, messages: list[ChatCompletionMessageParam]) -> Message:
    """Return the model's message with parsed calls."""
    completion = client.chat.completions.parse(model=model, messages=messages, **options(messages))
    return completion.choices[0].message


def ask_streamed(client: OpenAI, model: str, messages: list[ChatCompletionMessageParam]) -> Message:
    """Return the model's message with parsed calls, and print its pieces as they arrive."""
    with client.chat.completions.stream(model=model, messages=messages, **options(messages)) as stream:
        for event in stream:
            if event.type == "content.delta" and event.delta:
                print("  text:", repr(event.delta))
            elif event.type == "tool_calls.function.arguments.delta" and event.arguments_delta:
                print(f"  call {event.index} of {event.name}:", repr(event.arguments_delta))
        return stream.get_final_completion().choices[0].message


def options(messages: list[ChatCompletionMessageParam]) -> dict[str, Any]:
    """Return the fields that both requests send."""
    has_results = messages[-1]["role"] == "tool"
    return {
        "tools": TOOLS,
        "tool_choice": "none" if has_results else "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_completion_tokens": 300,
    }


def round_trip(client: OpenAI, model: str, ask: Ask) -> None:
    """Ask a question, call the tool, and get an answer. Exits if the call or the answer is missing or not valid."""
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "How warm is it in Paris, in degrees Celsius?"}
    ]
    message = ask(client, model, messages)
    if not message.tool_calls:
        raise SystemExit("the model called no tool")
    calls: Any = message.to_dict()
    messages.append(calls)
    for call in message.tool_calls:
        arguments = call.function.parsed_arguments
        if not isinstance(arguments, GetWeather):
            raise SystemExit(f"the arguments are not valid: {call.function.arguments}")
        result = arguments.run()
        print(f"  {call.function.name}({arguments}) -> {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    answer = ask(client, model, messages)
    if answer.tool_calls or not answer.content:
        raise SystemExit("the model gave no answer after the tool's result")
    print("  answer:", answer.content)


def main() -> None:
    base_url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    print("whole:")
    round_trip(client, model, ask)
    print("streamed:")
    round_trip(client, model, ask_streamed)


if __name__ == "__main__":
    main()
