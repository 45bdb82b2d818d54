"""The official clients, the libraries around them and their examples, against a real server on the demo model.

Each program in clients/, and each example, makes its own assertions and prints its steps; what it prints is shown where
it fails.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.server_process import API_KEY, ServerProcess
from tests.integrations.programs import node_scripts, python_program

pytestmark = pytest.mark.integrations

_SCRIPTS = Path(__file__).with_name("clients")
_EXAMPLES = Path(__file__).parents[2] / "examples"
_PYTHON_EXAMPLES = ("langchain_structured_output.py", "langchain_tools.py", "structured_output.py", "tools.py")
_MODEL = "demo"
_CONFIG = f"""
models:
  {_MODEL}: {{model: demo, kv-cache-memory-bytes: 512MiB}}
  minilm: "demo:minilm"
"""
_TIMEOUT_S = 600.0
_PYTHON_PACKAGES = (
    "anthropic",
    "ollama",
    "litellm",
    "langchain-openai",
    "langchain-anthropic",
    "langchain-ollama",
    "openai-agents",
)
# The first names the folder that they are in, which must not be that of Python's packages.
_NODE_PACKAGES = (
    *("@anthropic-ai/sdk", "openai", "ollama", "zod", "eventsource"),
    *("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic"),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "headrace.yaml").write_text(_CONFIG)
    with ServerProcess(folder / "log", "--config", str(folder / "headrace.yaml")) as running:
        running.wait_ready()
        yield running


def _run(*command: str | Path, **environment: str) -> None:
    result = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr[-8000:]}"


@pytest.mark.parametrize("script", sorted(path.name for path in _SCRIPTS.glob("*.py")))
def test_python(server: ServerProcess, script: str) -> None:
    python = python_program("openai", "python", others=_PYTHON_PACKAGES)
    _run(python, _SCRIPTS / script, server.url, API_KEY, _MODEL)


@pytest.mark.parametrize("script", sorted(path.name for path in _SCRIPTS.glob("*.mjs")))
def test_node(server: ServerProcess, script: str) -> None:
    folder = node_scripts(_SCRIPTS, *_NODE_PACKAGES)
    _run("node", folder / script, server.url, API_KEY, _MODEL)


@pytest.mark.parametrize("script", _PYTHON_EXAMPLES)
def test_python_example(server: ServerProcess, script: str) -> None:
    python = python_program("openai", "python", others=_PYTHON_PACKAGES)
    _run(python, _EXAMPLES / "python" / script, OPENAI_BASE_URL=f"{server.url}/v1", OPENAI_API_KEY=API_KEY)


@pytest.mark.parametrize("script", ["ai_sdk_objects.mjs", "ai_sdk_tools.mjs", "structured_output.mjs", "tools.mjs"])
def test_node_example(server: ServerProcess, script: str) -> None:
    folder = node_scripts(_EXAMPLES / "node", *_NODE_PACKAGES)
    _run("node", folder / script, OPENAI_BASE_URL=f"{server.url}/v1", OPENAI_API_KEY=API_KEY)


@pytest.mark.parametrize("script", sorted(path.name for path in _SCRIPTS.glob("*.sh")))
def test_shell(server: ServerProcess, script: str) -> None:
    _run("sh", _SCRIPTS / script, server.url, API_KEY, _MODEL)
