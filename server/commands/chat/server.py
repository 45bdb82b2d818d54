"""Which server the terminal talks to: one that is named, one that runs here, or one that is started for the chat."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import httpx

from engine.child_processes.lifetime import PARENT_VARIABLE
from engine.errors import StartupError
from server.commands.options.options import CONFIG_VARIABLE, OPTIONS

DEFAULT_URL = "http://127.0.0.1:8000"
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.2
_LISTENING = {"HTTP", "Network", "Keys", "Storage"}  # groups of options


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def runs_here(url: str = DEFAULT_URL) -> bool:
    """Whether a headrace server answers at `url`."""
    try:
        answer = httpx.get(f"{url}/version", timeout=1.0, trust_env=False)
        return answer.status_code in {200, 401} and "x-request-id" in answer.headers
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def started(model: str | None) -> Iterator[str]:
    """The address of a server for `model` (None: the demo model), which ends with the context.

    Raises StartupError if it does not start; why, it has said on the terminal.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Its log would run through the conversation; bars show while it loads. In a session of its own, since Ctrl-C is
    # for the answer. -P: a folder named engine, where the user happens to stand, must not be taken for ours.
    options = ["--port", str(port), "--log-level", "warning", "--no-log-requests", "--shutdown-timeout", "1"]
    command = [sys.executable, "-P", "-m", "server.commands.chat.child", *([model] if model else []), *options]
    environment = {**_without_listening(os.environ), PARENT_VARIABLE: str(os.getpid())}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while not _is_ready(url):
            if process.poll() is not None:
                raise StartupError(f"the server for {model or 'the demo model'} did not start")
            time.sleep(_POLL_S)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _without_listening(environ: Mapping[str, str]) -> dict[str, str]:
    """Without the options that say who may call a server, where and how: this one is the conversation's alone."""
    dropped = {CONFIG_VARIABLE, *(each.variable for each in OPTIONS.values() if each.group in _LISTENING)}
    return {name: value for name, value in environ.items() if name not in dropped}


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
