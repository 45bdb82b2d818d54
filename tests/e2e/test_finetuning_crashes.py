"""Fine-tuning jobs of a real server: whoever is killed, the adapter is the same to the last bit, and answers."""

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import httpx

from server.finetuning.jobs.folders import out_folder
from tests.helpers.deadline import wait_until
from tests.helpers.model_folders import write_model_folder
from tests.helpers.server_process import START_TIMEOUT_S, ServerProcess, children, is_alive

_NUM_LINES, _NUM_EPOCHS = 24, 4


def _trainers(server: ServerProcess) -> list[int]:
    found = []
    for pid in children(server.process.pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"engine.finetuning" in arguments and is_alive(pid):
                found.append(pid)
    return found


def _num_steps(server: ServerProcess) -> float:
    return server.metric("headrace_finetune_steps_total")


def _has_killed(server: ServerProcess) -> bool:
    """Whether the server has seen the unexpected end of a trainer. If not, those that are alive are killed: the first
    job's, or, on a machine so fast that it is done, the second one's, which takes a while to start."""
    if server.metric("headrace_finetune_restarts_total") > 0:
        return True
    for trainer in _trainers(server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(trainer, signal.SIGKILL)
    return False


def _create(client: httpx.Client) -> str:
    rows = (
        {"prompt": f"{number} and {number + 1}", "completion": f" make {2 * number + 1}"}
        for number in range(_NUM_LINES)
    )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    file = client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("a.jsonl", lines)}).json()
    hyperparameters = {"n_epochs": _NUM_EPOCHS, "batch_size": 1, "lora_rank": 4, "replay": 0}
    body = {"model": "tiny", "training_file": file["id"], "seed": 7, "hyperparameters": hyperparameters}
    answer = client.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    _check_unknown_layers_are_refused(client, file["id"])
    made: str = answer.json()["id"]
    return made


def _check_unknown_layers_are_refused(client: httpx.Client, file_id: str) -> None:
    body = {"model": "tiny", "training_file": file_id, "hyperparameters": {"target_modules": ["q_projection"]}}
    answer = client.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "hyperparameters.target_modules"
    assert "q_projection" in error["message"]
    assert "down_proj, gate_proj, k_proj" in error["message"]


def _job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert found["status"] not in ("failed", "cancelled"), found
    return found


def _are_done(client: httpx.Client, jobs: list[str]) -> bool:
    return all(_job(client, job)["status"] == "succeeded" for job in jobs)


def test_a_job_whose_process_and_server_are_killed_makes_the_same_adapter(tmp_path: Path) -> None:
    model, data = write_model_folder(tmp_path / "model"), tmp_path / "data"
    arguments = (
        *(str(model), "--served-model-name", "tiny", "--dtype", "float32", "--threads", "1"),
        *("--kv-cache-memory-bytes", "64MiB", "--enable-lora", "--data-dir", str(data)),
        *("--finetune-yield", "never"),  # at the idle priority, other tests would leave it nothing
    )
    with ServerProcess(tmp_path / "first.log", *arguments) as server, server.client() as client:
        server.wait_ready()
        jobs = [_create(client), _create(client)]
        wait_until(lambda: _num_steps(server) >= _NUM_LINES, "the first epoch ends", START_TIMEOUT_S)
        wait_until(lambda: _has_killed(server), "a trainer that was killed is missed", START_TIMEOUT_S)
        wait_until(lambda: _trainers(server) or _are_done(client, jobs), "it is started again", START_TIMEOUT_S)
        trainers = _trainers(server)
        server.process.kill()
        wait_until(lambda: not any(map(is_alive, trainers)), "the process ends with its server")

    with ServerProcess(tmp_path / "second.log", *arguments) as server, server.client() as client:
        server.wait_ready()
        wait_until(lambda: _are_done(client, jobs), "the jobs succeed", START_TIMEOUT_S)
        names = [_job(client, job)["fine_tuned_model"] for job in jobs]
        answers = [
            client.post("/v1/completions", json={"model": name, "prompt": "1 and 2", "max_tokens": 4}).json()
            for name in names
        ]
        assert [answer["model"] for answer in answers] == names, answers
        results = [client.get(f"/v1/files/{_job(client, job)['result_files'][0]}/content").content for job in jobs]

    adapters = [(out_folder(str(data), job) / "adapter_model.safetensors").read_bytes() for job in jobs]
    assert adapters[0] == adapters[1]
    assert results[0] == results[1]
    assert results[0].count(b"\n") == 1 + _NUM_LINES * _NUM_EPOCHS
