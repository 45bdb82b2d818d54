"""LangChain: bind_tools, with calls made by this program and their results sent back, whole and streamed."""

import os

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import SecretStr


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two integers."""
    return a * b


def ask(chat: ChatOpenAI, messages: list[BaseMessage]) -> AIMessage:
    """Return the complete answer."""
    needs_call = len(messages) == 1
    model = chat.bind_tools([multiply], strict=True, tool_choice="required" if needs_call else "none")
    return model.invoke(messages)


def ask_streamed(chat: ChatOpenAI, messages: list[BaseMessage]) -> AIMessage:
    """Return the answer, assembled from its pieces, which are printed."""
    needs_call = len(messages) == 1
    model = chat.bind_tools([multiply], tool_choice="multiply" if needs_call else "none", parallel_tool_calls=False)
    whole = AIMessageChunk(content="")
    for piece in model.stream(messages):
        if isinstance(piece, AIMessageChunk):
            for call in piece.tool_call_chunks:
                print("  piece of a call:", call["name"], repr(call["args"]))
            whole += piece
    return whole


def main() -> None:
    base_url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    api_key = os.environ.get("OPENAI_API_KEY", "none")
    model = OpenAI(base_url=base_url, api_key=api_key).models.list().data[0].id
    chat = ChatOpenAI(
        base_url=base_url, api_key=SecretStr(api_key), model=model, temperature=0, max_completion_tokens=300
    )
    for name, ask_once in (("whole", ask), ("streamed", ask_streamed)):
        print(f"{name}:")
        messages: list[BaseMessage] = [HumanMessage("What is 12 times 34? Use the tool.")]
        message = ask_once(chat, messages)
        if not message.tool_calls or message.invalid_tool_calls:
            raise SystemExit(f"the model made no valid call: {message!r}")
        messages.append(message)
        for call in message.tool_calls:
            result = multiply.invoke(call)
            print(f"  multiply({call['args']}) -> {result.content}")
            messages.append(result)
        answer = ask_once(chat, messages)
        if answer.tool_calls or not answer.text:
            raise SystemExit(f"the model gave no answer after the tool's result: {answer!r}")
        print("  answer:", answer.text)


if __name__ == "__main__":
    main()
