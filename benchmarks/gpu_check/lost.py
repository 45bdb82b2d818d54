"""Stage "lost device": a real error that CUDA repeats for ever is recognized, and an engine that ends is restarted."""

import json
import os
import time
from collections.abc import Iterator

import httpx
import torch

from benchmarks.gpu_check.figures import Figure
from benchmarks.gpu_check.http import server_command
from benchmarks.gpu_check.random_models import model_folder
from benchmarks.gpu_check.stages import Context
from benchmarks.servers import free_port, started
from engine.child_processes.fault_plan import VARIABLE
from models.errors import DeviceLostError, raise_if_lost
from models.system import cuda

_LOST_STEP, _NUM_TOKENS = 30, 48


def lost_device(context: Context) -> Iterator[Figure]:
    folder = model_folder(context, "Qwen3-0.6B")
    os.environ[VARIABLE] = f"step:lost:{_LOST_STEP}"
    command = server_command(context, folder, "--enable-fault-injection")
    with started(command, free_port(), timeout_s=60) as server:
        num_tokens, longest_s = _stream(server.url)
    yield Figure("tokens of a stream over a restart", num_tokens, limit=_NUM_TOKENS)
    yield Figure("its longest pause", longest_s, "s", limit=20, more_is_better=False)
    if context.device.type == "cuda":  # last, since this process can compute nothing afterwards
        yield Figure("a real failure is recognized", float(_is_recognized(context.device)), limit=1)


def _stream(url: str) -> tuple[int, float]:
    """Return the number of tokens of a stream, and the longest time between two events."""
    body = {
        "prompt": [5, 6, 7],
        "max_tokens": _NUM_TOKENS,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    count, longest_s, last_s = 0, 0.0, time.monotonic()
    http = httpx.Client(base_url=url, timeout=120, trust_env=False)
    with http, http.stream("POST", "/v1/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                now_s = time.monotonic()
                longest_s, last_s = max(longest_s, now_s - last_s), now_s
                choices = json.loads(line.removeprefix("data: "))["choices"]
                count += sum(len(each.get("token_ids") or []) for each in choices)
    return count, longest_s


def _is_recognized(device: torch.device) -> bool:
    """Read out of bounds, and return whether the error counts as one after which the device answers no more."""
    try:
        torch.zeros(1, device=device)[torch.tensor([7], device=device)].cpu()
    except RuntimeError as error:
        try:
            raise_if_lost(error)
        except DeviceLostError:
            return not cuda.answers(device)
    return False
