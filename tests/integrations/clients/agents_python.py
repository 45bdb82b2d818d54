"""OpenAI's agents SDK over responses and chats: tools, handoffs, sessions. Arguments: the server, its key, model."""

import asyncio
import sys

from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

LIMITS = ModelSettings(temperature=0, max_tokens=300)  # an answer that is cut off is an error
MUST_CALL = ModelSettings(temperature=0, max_tokens=80, tool_choice="required")
asked_for: list[str] = []


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    asked_for.append(city)
    return "12 degrees"


async def talk(name: str, model: Model) -> None:
    agent = Agent(name="Greeter", instructions="Be brief.", model=model, model_settings=LIMITS)
    whole = await Runner.run(agent, "Say hello.")
    streamed = Runner.run_streamed(agent, "Say hello.")
    deltas = [
        event.data.delta
        async for event in streamed.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == whole.final_output == streamed.final_output, name
    assert whole.context_wrapper.usage.output_tokens > 0, name


async def call(name: str, model: Model) -> None:
    asked_for.clear()
    agent = Agent(name="Forecaster", model=model, model_settings=MUST_CALL, tools=[get_weather])
    result = await Runner.run(agent, "What is the weather in Oslo?", max_turns=3)  # it may call after the first turn
    assert asked_for, name
    kinds = [item.type for item in result.new_items]
    assert kinds[:2] == ["tool_call_item", "tool_call_output_item"], (name, kinds)
    assert result.final_output, name


async def hand_over(name: str, model: Model) -> None:
    greeter = Agent(name="Greeter", instructions="Say hello.", model=model, model_settings=LIMITS)
    desk = Agent(name="Desk", model=model, model_settings=MUST_CALL, handoffs=[greeter])
    result = await Runner.run(desk, "I want to be greeted.")
    assert result.last_agent is greeter, name
    assert result.final_output, name


async def remember(name: str, model: Model) -> None:
    session = SQLiteSession(name)
    agent = Agent(name="Greeter", model=model, model_settings=LIMITS)
    first = await Runner.run(agent, "Say hello.", session=session)
    second = await Runner.run(agent, "Once more.", session=session)
    sizes = [result.context_wrapper.usage.input_tokens for result in (first, second)]
    assert sizes[1] > sizes[0] + first.context_wrapper.usage.output_tokens, (name, sizes)


async def main(url: str, key: str, model: str, _: str) -> None:
    set_tracing_disabled(True)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120) as client:
        models = {
            "responses": OpenAIResponsesModel(model, client),
            "chats": OpenAIChatCompletionsModel(model, client),
        }
        for name, each in models.items():
            for step in (talk, call, hand_over, remember):
                print(name, step.__name__, flush=True)
                await step(name, each)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
