"""The official clients, the libraries around them and examples/, against a real server on the demo models.

Each program makes its own assertions and prints its steps; what it prints is shown where it fails.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT
from tests.helpers.server_process import API_KEY, ServerProcess
from tests.integrations.conftest import ADAPTER, CHAT_MODEL, EMBEDDING_MODEL
from tests.integrations.programs import node, node_scripts, python_program

pytestmark = pytest.mark.integrations

_CLIENTS, _EXAMPLES = Path(__file__).with_name("clients"), ROOT / "examples"
_TIMEOUT_S = 1800.0  # of which the example of fine-tuning takes most, on a machine that is busy
_PYTHON_PACKAGES = (
    "openai",
    "anthropic",
    "ollama",
    "litellm",
    "langchain-openai",
    "langchain-anthropic",
    "langchain-ollama",
    "openai-agents",
    "typesafe-sdk",
)
_APART = {  # which want other versions of the client
    "instructor_python.py": ("instructor",),
    "llama_index_python.py": ("llama-index-llms-openai-like", "llama-index-embeddings-openai-like"),
    "pydantic_ai_python.py": ("pydantic-ai-slim[openai]",),
}
_WITH_FILES = ("data_loop.py", "self_play.py")  # which need files and minutes; tests/e2e has it on a tiny model
_NODE_PACKAGES = (
    *("openai", "@anthropic-ai/sdk", "ollama", "zod", "eventsource"),
    *("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic"),
)


def _run(*command: str | Path, **environment: str) -> None:
    result = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-8000:]}\n{result.stderr[-8000:]}"


def _run_client(server: ServerProcess, *command: str | Path, model: str = CHAT_MODEL) -> None:
    _run(*command, server.url, API_KEY, model, EMBEDDING_MODEL)


def _run_example(server: ServerProcess, *command: str | Path) -> None:
    _run(*command, OPENAI_BASE_URL=f"{server.url}/v1", OPENAI_API_KEY=API_KEY)


def _names(folder: Path, ending: str) -> list[str]:
    return sorted(path.name for path in folder.glob(f"*.{ending}"))


def _scripts(ending: str) -> list[tuple[str, str]]:
    """Return the clients' scripts and the models that they ask. Decisions are asked of an adapter, too."""
    scripts = _names(_CLIENTS, ending)
    return [(each, CHAT_MODEL) for each in scripts] + [(each, ADAPTER) for each in scripts if "decisions" in each]


def client_python(packages: tuple[str, ...] = _PYTHON_PACKAGES) -> Path:
    """Python with the clients."""
    return python_program(packages[0], "python", others=packages[1:])


@pytest.mark.parametrize(("script", "model"), _scripts("py"))
def test_python(server: ServerProcess, script: str, model: str) -> None:
    _run_client(server, client_python(_APART.get(script, _PYTHON_PACKAGES)), _CLIENTS / script, model=model)


@pytest.mark.parametrize(("script", "model"), _scripts("mjs"))
def test_node(server: ServerProcess, script: str, model: str) -> None:
    _run_client(server, node(), node_scripts(_CLIENTS, *_NODE_PACKAGES) / script, model=model)


@pytest.mark.parametrize("script", _names(_CLIENTS, "sh"))
def test_shell(server: ServerProcess, script: str) -> None:
    _run_client(server, "sh", _CLIENTS / script)


@pytest.mark.parametrize("program", [each for each in _names(_EXAMPLES / "python", "py") if each not in _WITH_FILES])
def test_python_examples(server: ServerProcess, program: str) -> None:
    _run_example(server, client_python(), _EXAMPLES / "python" / program)


@pytest.mark.parametrize("program", _names(_EXAMPLES / "node", "mjs"))
def test_node_examples(server: ServerProcess, program: str) -> None:
    _run_example(server, node(), node_scripts(_EXAMPLES / "node", *_NODE_PACKAGES) / program)


@pytest.mark.parametrize("program", _names(_EXAMPLES / "curl", "sh"))
def test_curl_examples(server: ServerProcess, program: str) -> None:
    _run_example(server, "sh", _EXAMPLES / "curl" / program)
