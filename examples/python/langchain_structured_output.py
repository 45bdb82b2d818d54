"""LangChain: with_structured_output, by a JSON schema and by a tool call."""

import os

from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel, Field, SecretStr


class Person(BaseModel):
    """A person in the text."""

    name: str = Field(description="The person's first name", max_length=40)
    age: int = Field(description="The age in years", ge=0, le=150)
    hobbies: list[str] = Field(description="What the person likes to do", max_length=3)


TEXT = "Ada is 36 years old. She likes to calculate, and to ride."


def main() -> None:
    base_url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    api_key = os.environ.get("OPENAI_API_KEY", "none")
    model = OpenAI(base_url=base_url, api_key=api_key).models.list().data[0].id
    chat = ChatOpenAI(
        base_url=base_url, api_key=SecretStr(api_key), model=model, temperature=0, max_completion_tokens=500
    )
    for method in ("json_schema", "function_calling"):
        print(f"{method}:")
        person = chat.with_structured_output(Person, method=method).invoke(f"Who is in this text? {TEXT}")
        if not isinstance(person, Person):
            raise SystemExit(f"{method} gave no person: {person!r}")
        print(" ", person)
    print("streamed:")
    last = None
    for last in chat.with_structured_output(Person, method="json_schema").stream(f"Who is in this text? {TEXT}"):
        print("  so far:", last)
    if not isinstance(last, Person):
        raise SystemExit(f"the stream gave no person: {last!r}")


if __name__ == "__main__":
    main()
