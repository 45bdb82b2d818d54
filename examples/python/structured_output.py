"""An answer as a Pydantic object: whole, and while it is written.

The server enforces the schema, so the answer of any model is valid JSON of that shape. The contents of the fields
depend on the model: a small one fills them with nonsense.
"""

import os
from typing import Literal

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Give me a recipe for pancakes, as JSON."}]


class Ingredient(BaseModel):
    name: str = Field(max_length=40)
    grams: int = Field(ge=1, le=2000)


class Recipe(BaseModel):
    title: str = Field(max_length=60)
    difficulty: Literal["easy", "medium", "hard"]
    ingredients: list[Ingredient] = Field(min_length=1, max_length=4)


def ask(client: OpenAI, model: str) -> Recipe:
    """Return the recipe, once the answer is complete."""
    completion = client.chat.completions.parse(
        model=model, messages=MESSAGES, response_format=Recipe, temperature=0, max_completion_tokens=1000
    )
    recipe = completion.choices[0].message.parsed
    if recipe is None:
        raise SystemExit("the answer holds no recipe")
    return recipe


def ask_streamed(client: OpenAI, model: str) -> Recipe:
    """Return the recipe, and print it whenever it grows."""
    seen = None
    with client.chat.completions.stream(
        model=model,
        messages=MESSAGES,
        response_format=Recipe,
        temperature=0,
        max_completion_tokens=1000,
        stream_options={"include_usage": True},
    ) as stream:
        for event in stream:
            if event.type == "content.delta" and event.parsed != seen:
                seen = event.parsed
                print("  so far:", seen)
        completion = stream.get_final_completion()
    print("  tokens:", completion.usage.completion_tokens if completion.usage else "unknown")
    recipe = completion.choices[0].message.parsed
    if recipe is None:
        raise SystemExit("the streamed answer holds no recipe")
    return recipe


def main() -> None:
    base_url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    print("whole:")
    print(" ", ask(client, model))
    print("streamed:")
    print(" ", ask_streamed(client, model))


if __name__ == "__main__":
    main()
