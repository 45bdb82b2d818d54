"""LangChain's models for OpenAI, Anthropic and Ollama, and embeddings.

Arguments: the server, its key, the model and a model that makes embeddings.
"""

import sys
from typing import Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class City(BaseModel):
    name: Literal["Bern", "Oslo"]


@tool
def get_weather(city: Literal["Bern", "Oslo"]) -> str:
    """The weather in a city."""
    return f"12 degrees in {city}"


def talk(name: str, model: BaseChatModel) -> None:
    whole = model.invoke("Say hello.")
    streamed = list(model.stream("Say hello."))
    assert whole.usage_metadata["output_tokens"] > 0, name
    assert "".join(str(chunk.text) for chunk in streamed) == str(whole.text), name


def call(name: str, model: BaseChatModel, choice: str) -> None:
    bound = model.bind_tools([get_weather], tool_choice=choice)
    question = HumanMessage("What is the weather in Oslo?")
    first = bound.invoke([question])
    (wanted,) = first.tool_calls
    result = ToolMessage(get_weather.invoke(wanted["args"]), tool_call_id=wanted["id"])
    assert model.bind_tools([get_weather]).invoke([question, first, result]).usage_metadata, name
    whole = None
    for chunk in bound.stream([question]):
        whole = chunk if whole is None else whole + chunk
    assert whole.tool_calls[0]["name"] == "get_weather", name


def main(url: str, key: str, model: str, embedder: str) -> None:
    limits = {"temperature": 0, "max_retries": 0}
    by_key = {"authorization": f"Bearer {key}"}
    openai = {"base_url": f"{url}/v1", "api_key": key, "model": model, "max_tokens": 60, **limits}
    chat = ChatOpenAI(**openai)
    responses = ChatOpenAI(use_responses_api=True, **openai)
    anthropic = ChatAnthropic(base_url=url, api_key=key, model=model, max_tokens=60, **limits)
    ollama = ChatOllama(
        base_url=url,
        model=model,
        temperature=0,
        num_predict=60,
        client_kwargs={"headers": by_key},
    )
    for name, each in {"chat": chat, "responses": responses, "anthropic": anthropic, "ollama": ollama}.items():
        talk(name, each)
        if each is not ollama:  # whose protocol cannot demand a call
            call(name, each, "any")
        for method in ("json_schema",) if each is ollama else ("json_schema", "function_calling"):
            choosing = each.with_structured_output(City, method=method)
            assert isinstance(choosing.invoke("A city."), City), (name, method)
            assert isinstance(list(choosing.stream("A city."))[-1], City), (name, method)
        print(name, flush=True)
    by_openai = OpenAIEmbeddings(base_url=f"{url}/v1", api_key=key, model=embedder, check_embedding_ctx_length=False)
    by_ollama = OllamaEmbeddings(base_url=url, model=embedder, client_kwargs={"headers": by_key})
    texts = ["What floats?", "A boat floats."]
    for one, other in zip(by_openai.embed_documents(texts), by_ollama.embed_documents(texts), strict=True):
        assert abs(sum(a * b for a, b in zip(one, other, strict=True)) - 1) < 1e-3
    print("embeddings", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
