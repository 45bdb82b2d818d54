"""The process that fetches a model for a server: its messages."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.command_io.findings import Severity
from engine.command_io.pulling import Pulled, PullMachine, PullMessage, PullProgress, PullRefused
from tests.helpers.checkpoints import llama_config, random_model
from tests.helpers.fake_hub import FakeHub, running
from tests.helpers.repository import ROOT

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("tiny")
    random_model(llama_config()).bfloat16().save_pretrained(folder)
    return {name: (folder / name).read_bytes() for name in ("config.json", WEIGHTS)}


@pytest.fixture
def hub(files: dict[str, bytes]) -> Iterator[FakeHub]:
    with running(FakeHub(files=dict(files), large={WEIGHTS})) as hub:
        yield hub


def _start(hub: FakeHub, folder: Path, model: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "engine.commands.pull.for_server", model]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


def _messages(hub: FakeHub, folder: Path, model: str) -> list[PullMessage]:
    with _start(hub, folder, model) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return [msgspec.json.decode(line, type=PullMessage) for line in output.splitlines()]


def test_the_memory_then_the_bytes_then_whether_it_fits(hub: FakeHub, tmp_path: Path) -> None:
    size = len(hub.files[WEIGHTS])
    messages = _messages(hub, tmp_path, hub.repo)
    machine = next(each for each in messages if isinstance(each, PullMachine))
    assert machine.free_bytes > 0
    stages = {each.stage: each for each in messages if isinstance(each, PullProgress)}  # the last of each stage
    assert stages[f"download {hub.repo}"] == PullProgress(f"download {hub.repo}", size, size, "B")
    assert stages["verify"].done == stages["verify"].total > size
    result = messages[-1]
    assert isinstance(result, Pulled)
    assert (Path(result.path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert result.size_bytes == stages["verify"].total
    assert result.memory.severity is Severity.OK
    assert "of KV cache a token" in result.memory.message


def test_a_wrong_checksum_is_refused_by_its_name(hub: FakeHub, tmp_path: Path) -> None:
    hub.served[WEIGHTS] = bytes(len(hub.files[WEIGHTS]))
    refusal = _messages(hub, tmp_path, hub.repo)[-1]
    assert isinstance(refusal, PullRefused)
    assert "model.safetensors of hub repository 'owner/repo' is not the file that the hub lists" in refusal.message
    assert not list(tmp_path.rglob("blobs/*.incomplete"))


def test_a_path_is_no_model_to_fetch(hub: FakeHub, tmp_path: Path) -> None:
    refusal = _messages(hub, tmp_path, str(tmp_path))[-1]
    assert isinstance(refusal, PullRefused)
    assert "which needs no download" in refusal.message
    assert hub.requests == []


def test_a_stopped_fetch_is_resumed(hub: FakeHub, tmp_path: Path) -> None:
    size = len(hub.files[WEIGHTS])
    hub.stalls = [size // 2]
    deadline_s = time.monotonic() + 60
    with _start(hub, tmp_path, hub.repo) as process:
        while not any(part.stat().st_size == size // 2 for part in tmp_path.rglob("*.incomplete")):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert isinstance(_messages(hub, tmp_path, hub.repo)[-1], Pulled)
    assert hub.ranges_of(WEIGHTS)[-1] == f"bytes={size // 2}-"
