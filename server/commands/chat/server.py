"""start_server: starts a server for a terminal command; is_running: detects a server on this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from engine.child_processes.lifetime import PARENT_VARIABLE
from engine.errors import StartupError
from server.commands.child_process import end_process, free_port
from server.commands.options.definitions import CONFIG_VARIABLE, OPTIONS

DEFAULT_URL = "http://127.0.0.1:8000"
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.2
LISTENING_GROUPS = {"HTTP", "Network", "Keys", "Storage"}  # of options that a private server does not take


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def is_running(url: str = DEFAULT_URL) -> bool:
    """Whether a headrace server answers at `url`."""
    import httpx  # slow, and `headrace serve` needs only this file's constants

    try:
        answer = httpx.get(f"{url}/version", timeout=1.0, trust_env=False)
        return answer.status_code in {200, 401} and "x-request-id" in answer.headers
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def start_server(model: str | None, arguments: Sequence[str] = ()) -> Iterator[str]:
    """Start a server for `model` (None: the demo model), yield its URL once it is ready, and stop it with the context.
    arguments: further ones of `headrace serve`.

    Raises StartupError if the server does not start; the server itself prints the reason.
    """
    port = free_port()
    # Its log would disturb the conversation; bars show its loading. It has its own session, since Ctrl-C only stops an
    # answer. -P: do not import a folder named engine in the current folder.
    options = ["--port", str(port), "--log-level", "warning", "--no-log-requests", "--shutdown-timeout", "1"]
    command = [
        sys.executable,
        "-P",
        "-m",
        "server.commands.chat.child",
        *([model] if model else []),
        *options,
        *arguments,
    ]
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
        end_process(process, signal.SIGTERM, _STOP_TIMEOUT_S)


def _without_listening(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without options for addresses, keys and storage: this server is private to one command."""
    dropped = {CONFIG_VARIABLE, *(each.variable for each in OPTIONS.values() if each.group in LISTENING_GROUPS)}
    return {name: value for name, value in environ.items() if name not in dropped}


def _is_ready(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/ready", timeout=2.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
