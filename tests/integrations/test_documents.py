"""What README.md and docs/ show is pasted: requests with curl, and programs with the official clients.

A page shows commands for a server without a key at port 8000; here they go to the tests' server, with its key.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT
from tests.helpers.server_process import API_KEY, ServerProcess
from tests.integrations.conftest import EMBEDDING_MODEL
from tests.integrations.test_clients import client_python

pytestmark = pytest.mark.integrations

_TIMEOUT_S = 1800.0  # an answer of the demo model may fill its context, which a busy machine takes minutes for
_ADDRESS = re.compile(r"(http://)?(127\.0\.0\.1|localhost):8000")
_PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Pages about servers with other options or models than these tests have.
_OTHER_SERVERS = {"http.md", "operations.md", "keys.md", "recipes.md"}
_OTHER_MODELS = ("/classify ", "thinking_token_budget", "/infill ", '"suffix"')  # in the commands
_PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in _OTHER_SERVERS),
]


def _commands(page: Path) -> list[str]:
    """The commands with curl, of one or several lines."""
    commands, lines = [], iter(page.read_text().splitlines())
    for line in lines:
        command = line.strip()
        if not command.startswith("curl "):
            continue
        while not _is_complete(command):
            command += "\n" + next(lines)
        if not any(mark in command for mark in _OTHER_MODELS):
            commands.append(command)
    return commands


def _is_complete(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


def _name(page: Path) -> str:
    return page.stem


def _adapt(text: str, server: ServerProcess) -> str:
    text = _ADDRESS.sub(server.url, text).replace('api_key="none"', f'api_key="{API_KEY}"')
    return text.replace('"NAME"', f'"{EMBEDDING_MODEL}"')


@pytest.mark.parametrize("page", [page for page in _PAGES if _commands(page)], ids=_name)
def test_requests_with_curl(server: ServerProcess, page: Path, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    options = (
        f"--fail-with-body --silent --show-error --dump-header {headers} --header 'authorization: Bearer {API_KEY}'"
    )
    for command in _commands(page):
        script = f'curl() {{ command curl {options} "$@"; }}\n{_adapt(command, server)}'
        result = subprocess.run(
            ["sh", "-eu", "-c", script], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        assert "x-ignored-parameters" not in headers.read_text(), command


@pytest.mark.parametrize("page", [page for page in _PAGES if _PROGRAM.search(page.read_text())], ids=_name)
def test_programs(server: ServerProcess, page: Path) -> None:
    """A page's programs as one, as later ones go on with the client of the first."""
    program = "\n".join(_PROGRAM.findall(page.read_text()))
    result = subprocess.run(
        [client_python(), "-c", _adapt(program, server)],
        env={**os.environ, "OLLAMA_API_KEY": API_KEY},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, f"{program}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    assert result.stdout.strip()
