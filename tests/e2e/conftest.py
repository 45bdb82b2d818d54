"""One real server on the demo model for all end-to-end tests, in float32 so that texts can be compared."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.keys.key import key_hash
from tests.helpers.demo_adapters import save_demo_adapter
from tests.helpers.keys import entry, write_keys
from tests.helpers.server_process import API_KEY, ServerProcess

# With one thread: tests of other files run on the other cores, and a thread that waits for another one spins.
FAST_START = (
    *("--kv-cache-memory-bytes", "512MiB", "--max-num-batched-tokens", "256", "--sse-ping-interval", "600"),
    *("--threads", "1"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)


def require_tool(name: str) -> str:
    """The path of a program, or skip; where CI=true, which promises to have it, a missing one is a failure."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{name} is not installed")
    return path


@pytest.fixture(scope="session")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys of the shared server: the tests' own is an admin's."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_keys(
        path,
        {**entry("tests", admin=True), "hash": key_hash(API_KEY)},
        entry("ann", requests_per_minute=1000, tokens_per_minute=100_000),
        entry("ben"),
    )
    return path


@pytest.fixture(scope="session")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared server's --adapter-dir; in it is one adapter that it serves as `adapted`."""
    folder = tmp_path_factory.mktemp("adapters")
    save_demo_adapter(folder / "adapted", seed=10)
    return folder


@pytest.fixture(scope="session")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, keys_file: Path, adapter_dir: Path
) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    options = ("--dtype", "float32", *FAST_START, "--served-model-name", "demo", "--api-keys-file", str(keys_file))
    adapters = ("--enable-lora", "--adapter-dir", str(adapter_dir), "--lora-modules", f"adapted={adapter_dir}/adapted")
    with ServerProcess(log, *options, *adapters) as server:
        server.wait_ready()
        yield server
        print(server.log)  # noqa: T201 - shown by pytest where a test failed


@pytest.fixture
def server(shared_server: ServerProcess) -> ServerProcess:
    """The shared server, ready: another test may have killed its engine."""
    shared_server.wait_ready()
    return shared_server
