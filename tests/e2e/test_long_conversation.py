"""A conversation of twenty turns with tools: a turn costs the prefill of the answer before it and of what is new."""

from typing import Any

from tests.helpers.server_process import ServerProcess

_BLOCK = 16  # --block-size, by default
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Bern", "Oslo"]}}, "required": ["city"]},
    },
}


def test_twenty_turns_with_tools_are_each_computed_once(server: ServerProcess) -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Answer in few words."}]
    num_known = 0  # tokens that the server has computed, at least
    with server.client() as client:
        for turn in range(20):
            messages.append({"role": "user", "content": f"What is the weather in city {turn}?"})
            body = {
                "messages": messages,
                "tools": [_TOOL],
                "tool_choice": "required" if turn % 2 else "auto",
                "max_tokens": 40 if turn % 2 else 6,
                "seed": turn,
            }
            response = client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            answer = response.json()
            usage, message = answer["usage"], answer["choices"][0]["message"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            assert cached >= num_known // _BLOCK * _BLOCK, f"turn {turn}: {cached} of {num_known} tokens"
            # The answer comes back as the template writes it, which need not be how the model wrote it.
            num_known = usage["prompt_tokens"]
            if turn % 2 == 0:  # a call that it began is cut off
                messages.append({"role": "assistant", "content": message["content"] or "I do not know."})
                continue
            messages.append({name: message[name] for name in ("role", "content", "tool_calls")})
            messages += [
                {"role": "tool", "tool_call_id": call["id"], "content": f"{turn} degrees"}
                for call in message["tool_calls"]
            ]
    assert any(message["role"] == "tool" for message in messages)
