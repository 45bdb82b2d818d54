"""What options name and a start needs: a free port, readable files, writable folders, and who may call."""

import ipaddress
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.jobs.findings import Finding, ok, problem, warning
from server.commands.listener import host_port, listen
from server.config import ServerConfig


def options_findings(server: ServerConfig, engine: EngineConfig) -> Iterator[Finding]:
    yield port_finding(server.host, server.port)
    yield caller_finding(server)
    if server.data_dir is not None:
        yield data_folder_finding(Path(server.data_dir).expanduser())
    if server.chat_template is not None and "{" not in server.chat_template:
        yield file_finding("chat template", Path(server.chat_template).expanduser())
    if engine.draft_model is not None and engine.draft_model == engine.model:
        yield warning("draft model", "it is the model itself, which drafts no faster than it answers")


def port_finding(host: str, port: int) -> Finding:
    try:
        listen(host, port).close()
    except StartupError as error:
        return problem("port", str(error))
    return ok("port", f"{host_port(host, port)} is free" if port else f"any free one of {host}")


def caller_finding(config: ServerConfig) -> Finding:
    if config.api_key:
        return ok("keys", f"{len(config.api_key)}; clients have to send one")
    if _is_loopback(config.host):
        return ok("keys", f"none, and only this machine reaches {config.host}")
    return warning("keys", f"none: whoever reaches {config.host} may use the server; set HEADRACE_API_KEY")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def data_folder_finding(folder: Path) -> Finding:
    nearest = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    if not nearest.is_dir():
        return problem("data folder", f"--data-dir is {folder}, and {nearest} is no folder; name another")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return problem("data folder", f"--data-dir is {folder}, which cannot be written: {error.strerror}")
    return ok("data folder", str(folder))


def file_finding(subject: str, path: Path) -> Finding:
    """Whether a file can be read."""
    try:
        path.open("rb").close()
    except OSError as error:
        return problem(subject, f"{path} cannot be read: {error.strerror}")
    return ok(subject, str(path))
