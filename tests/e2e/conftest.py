"""One real server on the demo model for all end-to-end tests, in float32 so that texts can be compared."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.helpers.server_process import ServerProcess

FAST_START = ("--kv-cache-memory-bytes", "512MiB", "--max-num-batched-tokens", "256")


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
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(log, "--dtype", "float32", *FAST_START, "--served-model-name", "demo") as server:
        server.wait_ready()
        yield server
        print(server.log)  # noqa: T201 - shown by pytest where a test failed


@pytest.fixture
def server(shared_server: ServerProcess) -> ServerProcess:
    """The shared server, ready: another test may have killed its engine."""
    shared_server.wait_ready()
    return shared_server
