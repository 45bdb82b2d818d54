"""The image serves as an ordinary user on a root that cannot be written, and ends as `docker stop` asks it to.

Run by `make test-image`, beside which is what it needs.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from server.commands.child_process import free_port
from tests.helpers.checkpoints import llama_config
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder
from tests.image.conftest import IMAGE, Store

pytestmark = pytest.mark.image

_START_TIMEOUT_S = 120.0
_KEY = "a-key-of-the-tests"
_CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")
_SIZES = ("--threads", "1", "--kv-cache-memory-bytes", "64MiB")


@dataclass
class Container:
    store: Store
    name: str
    port: int

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=_KEY, max_retries=0)

    def run(self, *command: str) -> str:
        return self.store.podman("exec", self.name, *command)


@pytest.fixture
def container(store: Store, tmp_path: Path) -> Iterator[Container]:
    folder = write_model_folder(tmp_path / "model", llama_config(vocab_size=VOCAB_SIZE, max_position_embeddings=4096))
    for path in (folder, *folder.iterdir()):
        path.chmod(path.stat().st_mode | 0o055 if path.is_dir() else 0o644)
    port = free_port()
    options = ("--detach", "--publish", f"127.0.0.1:{port}:8000", "--env", f"HEADRACE_API_KEY={_KEY}")
    command = ("serve", "/model", "--served-model-name", "tiny", *_SIZES)
    name = store.podman("run", *options, *_CONFINED, "--volume", f"{folder}:/model:ro", IMAGE, *command)
    try:
        end_s = time.monotonic() + _START_TIMEOUT_S
        while not _is_ready(port):
            assert store.podman("inspect", "--format", "{{.State.Running}}", name) == "true", _log(store, name)
            assert time.monotonic() < end_s, _log(store, name)
            time.sleep(0.2)
        yield Container(store, name, port)
    finally:
        print(_log(store, name))  # noqa: T201 - shown by pytest where a test failed
        store.podman("rm", "--force", "--time", "0", "--volumes", name)


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


def _log(store: Store, name: str) -> str:
    return store.podman("logs", name)


def test_it_answers_the_official_client_as_an_ordinary_user_who_cannot_write(container: Container) -> None:
    answer = container.client().completions.create(model="tiny", prompt="one two", max_tokens=4, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert container.run("id", "-u") == "1000"
    tries = "for f in / /opt/headrace /home/headrace; do touch $f/x 2>/dev/null && echo $f; done; touch /cache/x /tmp/x"
    assert container.run("sh", "-c", tries) == ""
    assert container.store.podman("healthcheck", "run", container.name) == ""


def test_it_ends_a_stream_that_runs_when_it_is_told_to_stop(container: Container) -> None:
    stream = container.client().completions.create(
        model="tiny", prompt="one two", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    container.store.podman("kill", "--signal", "TERM", container.name)
    reasons = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
    assert reasons[-1] == "length"
    assert container.store.podman("wait", container.name) == "0"


def test_it_has_torch_for_cpus_and_the_kernels_of_all_processors(store: Store) -> None:
    told = store.podman(
        "run", "--rm", *_CONFINED, "--entrypoint", "python", IMAGE, "-c",
        "import importlib.metadata as m, json, pathlib, models.kernels.cpu as k, torch;"
        "print(json.dumps([torch.__version__, sorted(d.name for d in m.distributions()),"
        "len(list(pathlib.Path(k.__file__).parent.rglob('prebuilt/*.so')))]))",
    )  # fmt: skip
    version, names, kernels = json.loads(told)
    assert version.endswith("+cpu")
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-")) or name == "triton"]
    assert kernels >= 4
    size_bytes = int(store.podman("image", "inspect", "--format", "{{.Size}}", IMAGE))
    print(f"the image has {size_bytes / 1e6:.0f} MB")  # noqa: T201 - for the documents
    assert size_bytes < 2e9  # CUDA's libraries are several gigabytes
