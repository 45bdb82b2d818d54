"""Reasoning: the model's thought separate from its answer, whole and streamed, and with thinking turned off.

Needs a model that thinks, such as Qwen/Qwen3-0.6B. Other models only answer, and x-ignored-parameters says so.
"""

import os
from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

QUESTION: ChatCompletionMessageParam = {"role": "user", "content": "Which is greater, 9.11 or 9.8?"}
MAX_TOKENS = 2000


def thought_in(message: Any) -> str:
    """Return the thought in a message or in a piece of one, for which OpenAI's API and client have no field."""
    return getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or ""


def ask(client: OpenAI, model: str) -> None:
    """Ask, and ask again with the first answer and its thought in the history."""
    messages = [QUESTION]
    for question in (None, "And 9.80 or 9.8?"):
        if question is not None:
            messages.append({"role": "user", "content": question})
        response = client.chat.completions.with_raw_response.create(
            model=model, messages=messages, reasoning_effort="medium", max_completion_tokens=MAX_TOKENS
        )
        print("  not honored:", response.headers.get("x-ignored-parameters", "nothing"))
        choice = response.parse().choices[0]
        message = choice.message
        print("  thought:", thought_in(message) or "none")
        print("  answer:", message.content)
        check(thought_in(message), message.content, choice.finish_reason)
        # The thought is sent back with the answer. The chat template decides how much of it the model sees.
        history: Any = {"role": "assistant", "content": message.content, "reasoning_content": thought_in(message)}
        messages.append(history)


def ask_streamed(client: OpenAI, model: str, **options: Any) -> str:
    """Print the thought and the answer as they arrive, and return the thought."""
    stream = client.chat.completions.create(
        model=model, messages=[QUESTION], stream=True, max_completion_tokens=MAX_TOKENS, **options
    )
    thought, answer, reason = "", "", None
    for chunk in stream:
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            if piece := thought_in(choice.delta):
                print(piece if thought else f"  thought: {piece}", end="", flush=True)
                thought += piece
            elif piece := choice.delta.content:
                print(piece if answer else f"\n  answer: {piece}", end="", flush=True)
                answer += piece
    print()
    check(thought, answer, reason)
    return thought


def check(thought: str, answer: str | None, finish_reason: str | None) -> None:
    """Exit unless there is an answer, or the tokens ran out before one."""
    if not answer and finish_reason != "length":
        raise SystemExit("there is no answer")
    if "</think>" in thought + (answer or ""):
        raise SystemExit("a mark of the model's was left in the text")


def main() -> None:
    base_url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    print("whole:")
    ask(client, model)
    print("streamed:")
    ask_streamed(client, model, reasoning_effort="medium")
    print("without thinking:")
    ask_streamed(client, model, reasoning_effort="none")


if __name__ == "__main__":
    main()
