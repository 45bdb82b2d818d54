"""A batch of decisions that outlives killed servers and runs beside a soak's users: each line is answered once."""

import asyncio
from collections import Counter
from typing import Any

import httpx

from tests.helpers.batches import jsonl, read_jsonl

_RETRY_S = 1.0
_POLL_S = 5.0
_UNFINISHED = ("validating", "in_progress", "finalizing")
_QUESTION = {"type": "predicate", "instructions": "It floats."}


async def begin_decisions(http: httpx.AsyncClient, num_lines: int) -> str:
    """Upload the lines and make a batch of them; its id. The inputs are few, so that most of each prompt is cached."""
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/decisions",
            "body": {"input": f"Number {number % 10} lies on the water.", "questions": [_QUESTION], "min_mass": 0},
        }
        for number in range(num_lines)
    ]
    file = ("lines.jsonl", jsonl(lines))
    uploaded = await _sent(http, "POST", "/v1/files", data={"purpose": "batch"}, files={"file": file})
    body = {"input_file_id": uploaded.json()["id"], "endpoint": "/v1/decisions", "completion_window": "24h"}
    batch_id: str = (await _sent(http, "POST", "/v1/batches", json=body)).json()["id"]
    return batch_id


async def wait_answered(http: httpx.AsyncClient, batch_id: str, num_more: int) -> None:
    """Wait until `num_more` lines have been answered since the call, or the batch has ended."""
    aim = None
    while (batch := (await _sent(http, "GET", f"/v1/batches/{batch_id}")).json())["status"] in _UNFINISHED:
        num_answered = batch["request_counts"]["completed"] + batch["request_counts"]["failed"]
        aim = num_answered + num_more if aim is None else aim
        if num_answered >= aim:
            return
        await asyncio.sleep(_RETRY_S / 10)


async def _sent(http: httpx.AsyncClient, method: str, path: str, **request: Any) -> httpx.Response:
    """The answer, once the disk that is full now and then allows it."""
    while (answer := await http.request(method, path, **request)).status_code >= 500:
        await asyncio.sleep(_RETRY_S)
    return answer.raise_for_status()


async def wrong_decisions(http: httpx.AsyncClient, batch_id: str, num_lines: int) -> list[str]:
    """Wait for the end of the batch. What is wrong with its answers, one line each."""
    while (batch := (await _sent(http, "GET", f"/v1/batches/{batch_id}")).json())["status"] in _UNFINISHED:
        await asyncio.sleep(_POLL_S)
    if batch["status"] != "completed":
        return [f"the batch of decisions ended as {batch['status']}"]
    answered: Counter[str] = Counter()
    for kind in ("output", "error"):
        if (file_id := batch[f"{kind}_file_id"]) is not None:
            file = await _sent(http, "GET", f"/v1/files/{file_id}/content")
            answered.update(line["custom_id"] for line in read_jsonl(file.content))
    expected = Counter(str(number) for number in range(num_lines))
    if answered == expected:
        return []
    missing, extra = (expected - answered).total(), (answered - expected).total()
    return [f"of {num_lines} lines of decisions {missing} were not answered, and {extra} once too often"]
