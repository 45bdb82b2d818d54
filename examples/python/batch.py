"""OpenAI's client: a file of requests, run as a batch in the background, and its answers."""

import json
import os
import time

from openai import OpenAI

ENDPOINT = "/v1/chat/completions"
CITIES = ["Rome", "Lima", "Oslo", "Cairo"]


def main() -> None:
    base_url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    lines = [
        {
            "custom_id": city,
            "method": "POST",
            "url": ENDPOINT,
            "body": {
                "model": model,
                "messages": [{"role": "user", "content": f"In which country is {city}?"}],
                "max_completion_tokens": 50,
            },
        }
        for city in CITIES
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("cities.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(1)
        batch = client.batches.retrieve(batch.id)
        print(batch.status, batch.request_counts)
    if batch.errors is not None:
        raise SystemExit(f"the input is no batch: {batch.errors.data}")
    if batch.error_file_id is not None:
        raise SystemExit(client.files.content(batch.error_file_id).text)
    assert batch.output_file_id is not None
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert {answer["custom_id"] for answer in answers} == set(CITIES)
    for answer in answers:
        print(answer["custom_id"], "-", answer["response"]["body"]["choices"][0]["message"]["content"])
    print("tokens:", batch.usage)
    client.files.delete(file.id)


if __name__ == "__main__":
    main()
