"""Instructor over chats: structured outputs, whole and partial. Arguments: the server, its key and the model."""

import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel, ConfigDict


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")  # or one mode asks for a schema that permits more fields

    name: Literal["Bern", "Oslo"]


def main(url: str, key: str, model: str, _: str) -> None:
    asked = {"model": model, "messages": [{"role": "user", "content": "A city."}], "max_tokens": 80, "max_retries": 0}
    plain = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(plain, mode=mode)
        assert isinstance(client.create(response_model=City, **asked), City), mode
        growing = list(client.create_partial(response_model=City, **asked))
        assert growing[-1].name in ("Bern", "Oslo"), mode
        print(mode, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
