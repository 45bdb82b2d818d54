"""Ollama's Python client: chat and generate, whole and streamed, tools, formats.

Arguments: the server, its key, the model and a model that makes embeddings.
"""

import json
import sys

import ollama

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Bern", "Oslo"]}}, "required": ["city"]},
    },
}
HELLO = [{"role": "user", "content": "Say hello."}]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def main(url: str, key: str, model: str, embedder: str) -> None:
    client = ollama.Client(host=url, headers={"authorization": f"Bearer {key}"}, timeout=120)
    assert f"{model}:latest" in [card.model for card in client.list().models]
    assert client.show(model).capabilities
    assert client.ps().models
    asked = {"model": model, "messages": HELLO, "options": {"temperature": 0, "num_predict": 12}}
    whole = client.chat(**asked)
    assert whole.done
    assert whole.eval_count
    parts = list(client.chat(stream=True, **asked))
    assert "".join(part.message.content for part in parts) == whole.message.content
    print("chat", flush=True)
    options = {"temperature": 0, "num_predict": 8}
    whole = client.generate(model=model, prompt="Say hello.", options=options)
    parts = list(client.generate(model=model, prompt="Say hello.", options=options, stream=True))
    assert "".join(part.response for part in parts) == whole.response
    print("generate", flush=True)
    answer = client.chat(model=model, messages=HELLO, format=CITY, options={"num_predict": 40})
    assert json.loads(answer.message.content)["city"] in ("Bern", "Oslo")
    client.chat(model=model, messages=HELLO, tools=[TOOL], options={"num_predict": 20})
    print("format and tools", flush=True)
    vectors = client.embed(model=embedder, input=["What floats?", "A boat floats."]).embeddings
    assert len(vectors[0]) == len(vectors[1]) == len(client.embeddings(model=embedder, prompt="A boat.").embedding)
    print("embeddings", flush=True)
    try:
        client.chat(model="another", messages=HELLO)
    except ollama.ResponseError as error:
        assert error.status_code == 404
    else:
        raise AssertionError("an unknown model was served")
    print("errors", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
