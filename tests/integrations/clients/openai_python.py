"""OpenAI's Python client over completions, chats and responses, whole and streamed.

Arguments: the server, its key and the model.
"""

import sys
import time
from typing import Literal

import openai
from pydantic import BaseModel

TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Bern", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CHAT_TOOL = {"type": "function", "function": TOOL}
RESPONSE_TOOL = {"type": "function", **TOOL}
QUESTION = "What is the weather in Oslo?"
HELLO = [{"role": "user", "content": "Say hello."}]


class City(BaseModel):
    name: Literal["Bern", "Oslo"]
    is_large: bool


def completions(client: openai.OpenAI, model: str) -> None:
    whole = client.completions.create(model=model, prompt="One, two,", max_tokens=8, temperature=0, logprobs=2)
    chunks = list(client.completions.create(model=model, prompt="One, two,", max_tokens=8, temperature=0, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert len(whole.choices[0].logprobs.tokens) == 8
    best = client.completions.create(model=model, prompt="One, two,", max_tokens=4, n=1, best_of=3)
    assert best.usage.completion_tokens == 12


def chats(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    with client.chat.completions.stream(**asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
    assert text == whole.choices[0].message.content
    asked = {"model": model, "messages": HELLO, "response_format": City, "max_tokens": 80}
    for completions in (client.chat.completions, client.beta.chat.completions):
        parsed = completions.parse(**asked)
        assert isinstance(parsed.choices[0].message.parsed, City)
        with completions.stream(**asked) as stream:
            growing = [event.parsed for event in stream if event.type == "content.delta"]
            assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)
        assert growing[-1].keys() == City.model_fields.keys()


def chat_tools(client: openai.OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    asked = {"model": model, "tools": [CHAT_TOOL], "max_tokens": 80}
    first = client.chat.completions.create(messages=messages, tool_choice="required", **asked).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    messages += [first.message.model_dump(exclude_none=True)]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}]
    second = client.chat.completions.create(messages=messages, tool_choice="none", **asked).choices[0]
    assert second.message.content
    with client.chat.completions.stream(messages=messages[:1], tool_choice="required", **asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed[0].function.name == "get_weather"
    asked["tools"] = [openai.pydantic_function_tool(City, name="choose")]
    parsed = client.chat.completions.parse(messages=messages[:1], tool_choice="required", **asked)
    assert isinstance(parsed.choices[0].message.tool_calls[0].function.parsed_arguments, City)
    with client.chat.completions.stream(messages=messages[:1], tool_choice="required", **asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert isinstance(streamed[0].function.parsed_arguments, City)


def responses(client: openai.OpenAI, model: str) -> None:
    whole = client.responses.create(model=model, input="Say hello.", max_output_tokens=12, temperature=0)
    with client.responses.stream(model=model, input="Say hello.", max_output_tokens=12, temperature=0) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == whole.output_text
    parsed = client.responses.parse(model=model, input="A city.", text_format=City, max_output_tokens=80)
    assert isinstance(parsed.output_parsed, City)
    with client.responses.stream(model=model, input="A city.", text_format=City, max_output_tokens=80) as stream:
        assert isinstance(stream.get_final_response().output_parsed, City)
    again = client.responses.create(
        model=model, input="Once more.", previous_response_id=whole.id, max_output_tokens=12, instructions="Be brief."
    )
    assert again.previous_response_id == whole.id
    assert again.usage.input_tokens > whole.usage.input_tokens
    assert client.responses.retrieve(whole.id).output_text == whole.output_text
    assert [item.role for item in client.responses.input_items.list(whole.id)] == ["user"]
    client.responses.delete(whole.id)
    try:
        client.responses.retrieve(whole.id)
    except openai.NotFoundError:
        pass
    else:
        raise AssertionError("a deleted response was found")


def response_tools(client: openai.OpenAI, model: str) -> None:
    asked = {"model": model, "tools": [RESPONSE_TOOL], "max_output_tokens": 80}
    first = client.responses.create(input=QUESTION, tool_choice="required", **asked)
    (call,) = (item for item in first.output if item.type == "function_call")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
    second = client.responses.create(input=[result], previous_response_id=first.id, tool_choice="none", **asked)
    assert second.output_text
    stream = client.responses.create(input=QUESTION, tool_choice="required", stream=True, **asked)
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.completed"
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert arguments == events[-1].response.output[-1].arguments


def background(client: openai.OpenAI, model: str) -> None:
    response = client.responses.create(model=model, input="Say hello.", max_output_tokens=12, background=True)
    assert response.status in ("queued", "in_progress")
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    assert response.status in ("completed", "incomplete")
    replayed = list(client.responses.retrieve(response.id, stream=True, starting_after=1))
    assert replayed[0].sequence_number == 2
    endless = client.responses.create(
        model=model, input="Tell a story.", background=True, extra_body={"ignore_eos": True}
    )
    assert client.responses.cancel(endless.id).status == "cancelled"


def conversations(client: openai.OpenAI, model: str) -> None:
    conversation = client.conversations.create(metadata={"topic": "greetings"})
    client.responses.create(model=model, input="Say hello.", conversation=conversation.id, max_output_tokens=8)
    client.responses.create(model=model, input="Once more.", conversation=conversation.id, max_output_tokens=8)
    roles = [item.role for item in client.conversations.items.list(conversation.id, order="asc")]
    assert roles == ["user", "assistant", "user", "assistant"]
    assert client.conversations.delete(conversation.id).deleted


def errors(client: openai.OpenAI, model: str) -> None:
    try:
        client.chat.completions.create(model=model, messages=HELLO, temperature=-1)
    except openai.BadRequestError as error:
        assert error.param == "temperature"
    else:
        raise AssertionError("a temperature of -1 was taken")
    try:
        client.responses.create(model="another", input="Say hello.")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    else:
        raise AssertionError("an unknown model was served")


def main(url: str, key: str, model: str, _: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120) as client:
        assert model in [card.id for card in client.models.list().data]
        for step in (completions, chats, chat_tools, responses, response_tools, background, conversations, errors):
            print(step.__name__, flush=True)
            step(client, model)


if __name__ == "__main__":
    main(*sys.argv[1:])
