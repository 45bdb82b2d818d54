"""OpenAI's Python client over embeddings, files, uploads, batches and fine-tuning, with lists that come in pages.

Arguments: the server, its key, the model and a model that makes embeddings.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import openai

ENDED = ("completed", "failed", "expired", "cancelled", "succeeded")
TIMEOUT_S = 300.0
MESSAGES = [{"role": "user", "content": "Say hello."}]


def ended(retrieve: Callable, job_id: str):
    """The batch or the job, once it has ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while (job := retrieve(job_id)).status not in ENDED:
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    return job


def json_lines(rows: list[dict]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def embeddings(client: openai.OpenAI, embedder: str) -> None:
    asked = {"model": embedder, "input": ["What floats?", "A boat floats."]}
    decoded = client.embeddings.create(**asked).data  # the client asks for base64
    plain = client.embeddings.create(encoding_format="float", **asked).data
    for one, other in zip(decoded, plain, strict=True):
        assert math.isclose(sum(a * b for a, b in zip(one.embedding, other.embedding, strict=True)), 1, abs_tol=1e-3)
    try:
        client.embeddings.create(dimensions=7, **asked)
    except openai.BadRequestError as error:
        assert error.param == "dimensions", error
    else:
        raise AssertionError("a model that was not trained for it gave shorter vectors")


def files(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{n}.txt", b"x" * n), purpose="user_data").id for n in range(1, 6)]
    assert [file.id for file in client.files.list(purpose="user_data", limit=2)] == made[::-1]
    assert [file.id for file in client.files.list(purpose="user_data", limit=2, order="asc")] == made
    assert client.files.wait_for_processing(made[2]).bytes == 3
    assert client.files.content(made[2]).read() == b"xxx"
    for file_id in made:
        assert client.files.delete(file_id).deleted
    try:
        client.files.retrieve(made[2])
    except openai.NotFoundError:
        pass
    else:
        raise AssertionError("a deleted file was found")


def uploads(client: openai.OpenAI) -> None:
    content = bytes(range(256)) * 40
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.bin"
        path.write_bytes(content)
        kinds = {"mime_type": "application/octet-stream", "purpose": "user_data"}
        done = client.uploads.upload_file_chunked(file=path, part_size=1000, **kinds)
    assert client.files.content(done.file.id).read() == content
    client.files.delete(done.file.id)
    given_up = client.uploads.create(bytes=1000, filename="none.bin", **kinds)
    client.uploads.parts.create(given_up.id, data=content[:100])
    assert client.uploads.cancel(given_up.id).status == "cancelled"


def batches(client: openai.OpenAI, model: str, embedder: str) -> None:
    limit = {"model": model, "temperature": 0}
    hot, short = {"temperature": -1}, {"dimensions": 7}
    bodies = {
        "/v1/chat/completions": ({**limit, "messages": MESSAGES, "max_tokens": 8}, hot),
        "/v1/completions": ({**limit, "prompt": "One, two,", "max_tokens": 8}, hot),
        "/v1/responses": ({**limit, "input": "Say hello.", "max_output_tokens": 8}, hot),
        "/v1/embeddings": ({"model": embedder, "input": "What floats?"}, short),
    }
    made = []
    for endpoint, (body, wrong) in bodies.items():
        lines = [
            {"custom_id": name, "method": "POST", "url": endpoint, "body": each}
            for name, each in {"a": body, "b": body, "wrong": body | wrong}.items()
        ]
        file = client.files.create(file=("lines.jsonl", json_lines(lines)), purpose="batch")
        given = {"input_file_id": file.id, "endpoint": endpoint, "completion_window": "24h"}
        batch = client.batches.create(metadata={"endpoint": endpoint}, **given)
        made.append(batch.id)
        batch = ended(client.batches.retrieve, batch.id)
        assert (batch.status, batch.metadata) == ("completed", {"endpoint": endpoint}), batch
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (3, 2, 1), (endpoint, counts)
        answers = list(map(json.loads, client.files.content(batch.output_file_id).text.splitlines()))
        assert {answer["custom_id"] for answer in answers} == {"a", "b"}, endpoint
        assert all(answer["response"]["status_code"] == 200 for answer in answers), answers
        (fault,) = map(json.loads, client.files.content(batch.error_file_id).text.splitlines())
        assert fault["response"]["status_code"] == 400, fault
        assert fault["response"]["body"]["error"]["param"] == next(iter(wrong)), fault
    assert [batch.id for batch in client.batches.list(limit=1)][: len(made)] == made[::-1]


def batches_that_end_early(client: openai.OpenAI, model: str) -> None:
    endpoint = "/v1/chat/completions"
    body = {"model": model, "messages": MESSAGES, "max_tokens": 400, "ignore_eos": True}
    lines = [{"custom_id": str(n), "method": "POST", "url": endpoint, "body": body} for n in range(500)]
    file = client.files.create(file=("lines.jsonl", json_lines(lines)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = ended(client.batches.retrieve, batch.id)
    assert batch.status == "cancelled"
    assert batch.request_counts.completed < len(lines)
    file = client.files.create(file=("lines.jsonl", json_lines([lines[0], lines[0]])), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    batch = ended(client.batches.retrieve, batch.id)
    assert batch.status == "failed"
    assert [(error.line, error.code) for error in batch.errors.data] == [(2, "duplicate_custom_id")]


def fine_tuning(client: openai.OpenAI, model: str) -> None:
    jobs = client.fine_tuning.jobs
    question = lambda n: [{"role": "user", "content": f"What is {n} in words?"}]  # noqa: E731
    answer = lambda n: [{"role": "assistant", "content": f"It is number {n}."}]  # noqa: E731
    supervised = [{"messages": question(n) + answer(n)} for n in range(12)]
    pairs = [
        {"input": {"messages": question(n)}, "preferred_output": answer(n), "non_preferred_output": answer(n + 1)}
        for n in range(12)
    ]
    few = {"n_epochs": 2, "batch_size": 6, "replay": 0}
    made = {}
    for method, rows in {"supervised": supervised, "dpo": pairs}.items():
        file = client.files.create(file=(f"{method}.jsonl", json_lines(rows)), purpose="fine-tune")
        job = jobs.create(
            model=model,
            training_file=file.id,
            suffix="numbers",
            seed=1,
            metadata={"method": method},
            method={"type": method, method: {"hyperparameters": few}},
        )
        made[method] = job.id
        job = ended(jobs.retrieve, job.id)
        assert job.status == "succeeded", (job.error, [event.message for event in jobs.list_events(job.id)])
        assert job.fine_tuned_model.startswith(f"ft:{model}:headrace:numbers:"), job.fine_tuned_model
        events = list(jobs.list_events(job.id, limit=2))  # in pages, the newest first
        assert len({event.id for event in events}) == len(events) > 4
        assert events[-1].message == f"Created fine-tuning job: {job.id}"
        steps = [event.data["step"] for event in events if event.type == "metrics"]
        assert steps == [4, 3, 2, 1], events
        checkpoints = list(jobs.checkpoints.list(job.id, limit=1))
        assert [each.step_number for each in checkpoints] == [4, 2], checkpoints
        assert client.files.content(job.result_files[0]).text.startswith("step,train_loss")
        listed = [card.id for card in client.models.list()]
        for name in (job.fine_tuned_model, *(each.fine_tuned_model_checkpoint for each in checkpoints)):
            assert name in listed, (name, listed)
            whole = client.chat.completions.create(model=name, messages=question(3), max_tokens=8)
            assert (whole.model, whole.usage.completion_tokens > 0) == (name, True)
        assert client.models.delete(job.fine_tuned_model).deleted
    assert [job.id for job in jobs.list(limit=1)][:2] == [made["dpo"], made["supervised"]]
    assert [job.id for job in jobs.list(metadata={"method": "dpo"})] == [made["dpo"]]


def fine_tuning_that_ends_early(client: openai.OpenAI, model: str) -> None:
    jobs = client.fine_tuning.jobs
    rows = [{"prompt": f"{n} and {n + 1}", "completion": f" make {2 * n + 1}"} for n in range(200)]
    file = client.files.create(file=("sums.jsonl", json_lines(rows)), purpose="fine-tune")
    job = jobs.create(model=model, training_file=file.id, hyperparameters={"n_epochs": 50})
    assert jobs.pause(job.id).status == "paused"
    assert jobs.resume(job.id).status in ("validating_files", "queued", "running")
    assert jobs.cancel(job.id).status == "cancelled"
    assert jobs.retrieve(job.id).finished_at
    file = client.files.create(file=("sums.jsonl", json_lines([*rows[:11], {"prompt": 3}])), purpose="fine-tune")
    job = ended(jobs.retrieve, jobs.create(model=model, training_file=file.id).id)
    assert (job.status, job.error.code) == ("failed", "invalid_training_file"), job
    assert any("line 12" in event.message for event in jobs.list_events(job.id) if event.level == "error")


def main(url: str, key: str, model: str, embedder: str) -> None:
    steps = (
        (embeddings, embedder),
        (files,),
        (uploads,),
        (batches, model, embedder),
        (batches_that_end_early, model),
        (fine_tuning, model),
        (fine_tuning_that_ends_early, model),
    )
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120) as client:
        for step, *names in steps:
            print(step.__name__, flush=True)
            step(client, *names)


if __name__ == "__main__":
    main(*sys.argv[1:])
