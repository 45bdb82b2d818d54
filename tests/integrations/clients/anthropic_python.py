"""Anthropic's Python client: messages, whole and streamed, tools, counting.

Arguments: the server, its key and the model.
"""

import sys

import anthropic

TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"enum": ["Bern", "Oslo"]}}, "required": ["city"]},
}


def main(url: str, key: str, model: str, _: str) -> None:
    with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120) as client:
        assert model in [card.id for card in client.models.list().data]
        asked = {"model": model, "system": "Be brief.", "messages": [{"role": "user", "content": "Say hello."}]}
        greedy = {"extra_body": {"temperature": 0}}
        whole = client.messages.create(max_tokens=12, **greedy, **asked)
        assert whole.stop_reason in ("end_turn", "max_tokens")
        counted = client.messages.count_tokens(**asked).input_tokens
        assert counted == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
        with client.messages.stream(max_tokens=12, **greedy, **asked) as stream:
            assert "".join(stream.text_stream) == whole.content[0].text
        print("messages", flush=True)

        messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
        tools = {"model": model, "tools": [TOOL], "max_tokens": 80}
        first = client.messages.create(messages=messages, tool_choice={"type": "any"}, **tools)
        assert first.stop_reason == "tool_use"
        used = next(block for block in first.content if block.type == "tool_use")
        assert used.input["city"] in ("Bern", "Oslo")
        result = {"type": "tool_result", "tool_use_id": used.id, "content": "12 degrees"}
        messages += [
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
            {"role": "user", "content": [result]},
        ]
        second = client.messages.create(messages=messages, tool_choice={"type": "none"}, **tools)
        assert second.content[0].text
        with client.messages.stream(messages=messages[:1], tool_choice={"type": "any"}, **tools) as stream:
            assert stream.get_final_message().stop_reason == "tool_use"
        print("tools", flush=True)

        try:
            client.messages.create(**{**asked, "model": "another"}, max_tokens=1)
        except anthropic.NotFoundError as error:
            assert error.body["error"]["type"] == "not_found_error"
        else:
            raise AssertionError("an unknown model was served")
        print("errors", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
