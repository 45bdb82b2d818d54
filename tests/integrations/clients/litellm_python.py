"""LiteLLM: chats over OpenAI's, Anthropic's and Ollama's protocol, responses and embeddings.

Arguments: the server, its key, the model and a model that makes embeddings.
"""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it looks for prices on another server

import litellm

HELLO = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Bern", "Oslo"]}}, "required": ["city"]},
    },
}


def main(url: str, key: str, model: str, embedder: str) -> None:
    litellm.telemetry = False
    ways = {
        f"openai/{model}": f"{url}/v1",
        f"hosted_vllm/{model}": f"{url}/v1",
        f"anthropic/{model}": url,
        f"ollama_chat/{model}": url,
    }
    for name, base in ways.items():
        asked = {"model": name, "api_base": base, "api_key": key, "messages": HELLO, "max_tokens": 12, "temperature": 0}
        whole = litellm.completion(**asked)
        assert whole.usage.completion_tokens
        chunks = litellm.completion(stream=True, **asked)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == whole.choices[0].message.content, name
        if not name.startswith("ollama"):  # whose protocol cannot demand a call
            asked |= {"tools": [TOOL], "tool_choice": "required", "max_tokens": 80}
            calls = litellm.completion(**asked).choices[0].message.tool_calls
            assert calls[0].function.name == "get_weather", name
        print(name, flush=True)
    response = litellm.responses(
        model=f"openai/{model}", api_base=f"{url}/v1", api_key=key, input="Say hello.", max_output_tokens=12
    )
    assert response.output
    print("responses", flush=True)
    for way, base in {"openai": f"{url}/v1", "hosted_vllm": f"{url}/v1"}.items():
        vectors = litellm.embedding(model=f"{way}/{embedder}", api_base=base, api_key=key, input=["What floats?"])
        assert len(vectors.data[0]["embedding"]) > 1, way
    print("embeddings", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
