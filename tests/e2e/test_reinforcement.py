"""Reinforcement on a real server, with the official client: from a file of prompts to an adapter that answers."""

import json
from pathlib import Path

import httpx
import openai

from tests.helpers.deadline import wait_until
from tests.helpers.model_folders import write_model_folder
from tests.helpers.server_process import API_KEY, START_TIMEOUT_S, ServerProcess

_NUM_PROMPTS = 10
_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def _lines() -> bytes:
    rows = (
        {"messages": [{"role": "user", "content": f"{number} and {number}"}], "letter": "abcde"[number % 5]}
        for number in range(_NUM_PROMPTS)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_a_job_is_rewarded_by_its_graders_one_of_which_is_a_served_model(tmp_path: Path) -> None:
    letter = {
        "type": "string_check",
        "name": "letter",
        "operation": "like",
        "input": "{{sample.output_text}}",
        "reference": "{{item.letter}}",
    }
    judge = {
        "type": "score_model",
        "name": "judge",
        "model": "tiny",
        "input": [{"role": "user", "content": "Rate {{sample.output_text}}"}],
        "range": [0, 9],
    }
    grader = {
        "type": "multi",
        "name": "both",
        "graders": {"letter": letter, "judge": judge},
        "calculate_output": "letter + judge / 10",
    }
    hyperparameters = {"n_epochs": 1, "batch_size": 5, "group_size": 4, "max_completion_tokens": 4, "lora_rank": 2}
    model, data = write_model_folder(tmp_path / "model"), tmp_path / "data"
    arguments = (
        *(str(model), "--served-model-name", "tiny", "--dtype", "float32", "--threads", "1"),
        *("--kv-cache-memory-bytes", "64MiB", "--enable-lora", "--data-dir", str(data)),
        *("--finetune-yield", "never", "--chat-template", _TEMPLATE),
    )
    with ServerProcess(tmp_path / "log", *arguments) as server:
        server.wait_ready()
        web = httpx.Client(trust_env=False)
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=API_KEY, http_client=web)
        file = client.files.create(file=("prompts.jsonl", _lines()), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=file.id,
            seed=3,
            method={
                "type": "reinforcement",
                "reinforcement": {"grader": grader, "hyperparameters": hyperparameters},  # type: ignore[typeddict-item]
            },
        )
        jobs = client.fine_tuning.jobs
        wait_until(lambda: jobs.retrieve(job.id).finished_at is not None, "the job ends", START_TIMEOUT_S)
        job = jobs.retrieve(job.id)
        events = list(jobs.list_events(job.id))
        assert (job.status, job.error) == ("succeeded", None), [event.message for event in events]
        steps = [event.data for event in events if event.type == "metrics"]
        assert len(steps) == 2
        assert all(0 <= step["train_mean_reward"] <= 1.9 for step in steps)
        faults = [each["train_model_grader_server_error_count"] for step in steps for each in step["errors"]["graders"]]
        assert faults == [0] * 6  # of the whole and its two parts, in each step
        answer = client.completions.create(model=job.fine_tuned_model or "", prompt="1 and 1", max_tokens=2)
        assert answer.model == job.fine_tuned_model
