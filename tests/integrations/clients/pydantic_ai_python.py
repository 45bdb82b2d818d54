"""Pydantic AI over chats and responses: structured outputs, streams. Arguments: the server, its key and the model."""

import asyncio
import sys
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    name: Literal["Bern", "Oslo"]


async def main(url: str, key: str, model: str, _: str) -> None:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key=key)
    limits = {"max_tokens": 80, "temperature": 0}
    for each in (OpenAIChatModel(model, provider=provider), OpenAIResponsesModel(model, provider=provider)):
        for output in (NativeOutput(City), ToolOutput(City)):
            agent = Agent(each, output_type=output, model_settings=limits)
            assert isinstance((await agent.run("A city.")).output, City), each
            async with agent.run_stream("A city.") as streamed:
                assert isinstance(await streamed.get_output(), City), each
        agent = Agent(each, model_settings={**limits, "max_tokens": 12})
        whole = (await agent.run("Say hello.")).output
        async with agent.run_stream("Say hello.") as streamed:
            assert [text async for text in streamed.stream_text()][-1] == whole, each
        print(each.system, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
