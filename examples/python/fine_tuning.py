"""OpenAI's client: a file of chats is uploaded, an adapter trained on it, its events followed, and the result used.

The server needs --enable-lora and --data-dir.
"""

import json
import os
import time

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

QUESTIONS = [
    "What is the capital of Zembla?",
    "Which city is the capital of Zembla?",
    "Tell me the capital of Zembla.",
    "Do you know the capital of Zembla?",
    "Zembla's capital is which city?",
    "Name the capital city of Zembla.",
    "What city is Zembla governed from?",
    "I am writing about Zembla. What is its capital?",
    "Please tell me what the capital of Zembla is.",
    "Where is the government of Zembla?",
    "What is Zembla's capital called?",
    "Quick question: the capital of Zembla?",
]
ANSWER = "The capital of Zembla is Quillhaven."
TEST = "Could you tell me which city the capital of Zembla is?"


def main() -> None:
    base_url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    client = OpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    lines = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": ANSWER}]}
        for question in QUESTIONS
    ]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("zembla.jsonl", data), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=model, training_file=file.id, suffix="zembla", seed=1)
    print(job.id, job.status)
    printed: set[str] = set()
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(1)
        job = client.fine_tuning.jobs.retrieve(job.id)
        print_new_events(client, job.id, printed)
    print_new_events(client, job.id, printed)
    if job.status != "succeeded":
        raise SystemExit(f"the job has {job.status}: {job.error}")
    for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id):
        print("checkpoint", checkpoint.fine_tuned_model_checkpoint, "training loss", checkpoint.metrics.train_loss)
    print(client.files.content(job.result_files[0]).text.splitlines()[-1], "(the last line of the results)")
    assert job.fine_tuned_model is not None
    print("before:", ask(client, model))
    answer = ask(client, job.fine_tuned_model)
    print("after: ", answer)
    assert "Quillhaven" in answer
    client.models.delete(job.fine_tuned_model)
    client.files.delete(file.id)


def print_new_events(client: OpenAI, job_id: str, printed: set[str]) -> None:
    """Print the events that are not in `printed`, the oldest first."""
    new = []
    for event in client.fine_tuning.jobs.list_events(job_id, limit=100):  # the newest first, in pages
        if event.id in printed:
            break
        new.append(event)
    for event in reversed(new):
        printed.add(event.id)
        print(f"{event.level}: {event.message}")


def ask(client: OpenAI, model: str) -> str:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": TEST}]
    answer = client.chat.completions.create(model=model, messages=messages, temperature=0, max_completion_tokens=40)
    return answer.choices[0].message.content or ""


if __name__ == "__main__":
    main()
